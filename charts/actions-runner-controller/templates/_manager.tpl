{{/* What the manager and the Jobs of its image have in common. */}}

{{/* How many managers: at least two where one must be able to go. */}}
{{- define "arc.managerReplicas" -}}
{{- if .Values.highAvailability.enabled -}}{{ max (int .Values.replicaCount) 2 }}{{- else -}}{{ .Values.replicaCount }}{{- end -}}
{{- end -}}

{{- define "arc.managerArgs" -}}
- {{ include "arc.metricsFlag" (dict "metrics" .Values.metrics) | quote }}
{{- if or .Values.enableLeaderElection .Values.highAvailability.enabled }}
- "--enable-leader-election"
{{- end }}
{{- with .Values.leaderElectionId }}
- "--leader-election-id={{ . }}"
{{- end }}
- "--port={{ .Values.webhookPort }}"
- "--sync-period={{ .Values.syncPeriod }}"
- "--default-scale-down-delay={{ .Values.defaultScaleDownDelay }}"
- "--docker-image={{ .Values.image.dindSidecarRepositoryAndTag }}"
- "--runner-image={{ .Values.image.actionsRunnerRepositoryAndTag }}"
{{- range .Values.image.actionsRunnerImagePullSecrets }}
- "--runner-image-pull-secret={{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}"
{{- end }}
{{- with .Values.dockerRegistryMirror }}
- "--docker-registry-mirror={{ . }}"
{{- end }}
{{- if .Values.scope.singleNamespace }}
- "--watch-namespace={{ include "arc.watchNamespace" . }}"
{{- end }}
{{- with .Values.logLevel }}
- "--log-level={{ include "arc.text" . }}"
{{- end }}
{{- with .Values.runnerGithubURL }}
- "--runner-github-url={{ . }}"
{{- end }}
{{- if .Values.runner.statusUpdateHook.enabled }}
- "--runner-status-update-hook"
{{- end }}
{{- with .Values.logFormat }}
- "--log-format={{ . }}"
{{- end }}
{{- with .Values.dockerGID }}
- "--docker-gid={{ include "arc.text" . }}"
{{- end }}
{{- with .Values.healthProbeBindAddress }}
- "--health-probe-bind-address={{ . }}"
{{- end }}
{{- include "arc.managerExtensions" . }}
{{- end -}}

{{- define "arc.managerEnv" -}}
{{- include "arc.githubUrls" . }}
{{- if .Values.authSecret.enabled }}
{{- include "arc.githubLogin" (dict "root" . "secret" (include "arc.secretName" .)) }}
{{- end }}
{{- include "arc.env" .Values.env }}
{{- end -}}

{{/* Annotations of what belongs to a hook alone: .hook says when, .weight in which order. It goes when the hook has succeeded. */}}
{{- define "arc.hook" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* The account of a hook and its rights: .root, .name, .hook, .rules (of its ClusterRole), .bindings (list of dicts: kind, name, namespace). */}}
{{- define "arc.hookAccount" -}}
{{- $ := . }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ include "arc.namespace" .root }}
  annotations:
    {{- include "arc.hook" (dict "hook" .hook "weight" "-20") | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  annotations:
    {{- include "arc.hook" (dict "hook" .hook "weight" "-20") | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
{{- range .bindings }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ if eq .name $.name }}{{ .name }}{{ else }}{{ $.name }}-{{ .suffix }}{{ end }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  annotations:
    {{- include "arc.hook" (dict "hook" $.hook "weight" "-10") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ $.name }}
    namespace: {{ include "arc.namespace" $.root }}
{{- end }}
{{- end -}}

{{/* A Job of the manager's image: .root, .name, .hook, .command (its word), .args, .env, .deadline in seconds. */}}
{{- define "arc.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
  annotations:
    {{- include "arc.hook" (dict "hook" .hook "weight" "0") | nindent 4 }}
spec:
  # A second try would not see why the first one failed.
  backoffLimit: 0
  activeDeadlineSeconds: {{ .deadline }}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {{ include "arc.short" (dict "name" (printf "%s-%s" (include "arc.name" .root) .command) "max" 63) }}
        app.kubernetes.io/instance: {{ include "arc.short" (dict "name" .root.Release.Name "max" 63) }}
    spec:
      restartPolicy: Never
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      serviceAccountName: {{ .name }}
      securityContext:
        {{- toYaml .root.Values.podSecurityContext | nindent 8 }}
      {{- with .root.Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      containers:
        - name: {{ .command }}
          image: {{ include "arc.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command:
            - /manager
            - {{ .command }}
          args:
            {{- .args | nindent 12 }}
          {{- with .env }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          resources:
            {{- toYaml .root.Values.resources | nindent 12 }}
          securityContext:
            {{- toYaml .root.Values.securityContext | nindent 12 }}
      {{- include "arc.placement" (dict "values" (omit .root.Values "topologySpreadConstraints") "root" nil) | nindent 6 }}
      {{- if .root.Values.hostNetwork }}
      hostNetwork: true
      {{- end }}
      {{- with .root.Values.dnsPolicy }}
      dnsPolicy: {{ . }}
      {{- end }}
{{- end -}}
