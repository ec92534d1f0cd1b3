{{/*
The objects that both HTTP components have. Each takes the component's dict: root, values, suffix, metrics.
*/}}

{{- define "component.serviceAccount" -}}
{{- if and .values.enabled .values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "component.serviceAccountName" . }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "component.secret" -}}
{{- if and .values.enabled .values.secret.create }}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "component.secretName" . }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
type: Opaque
data:
  {{- $keys := list "github_webhook_secret_token" "github_webhook_secret_token_previous" "github_app_id" "github_app_installation_id" "github_app_private_key" "github_token" }}
  {{- include "arc.secretData" (dict "values" .values.secret "keys" $keys) | indent 2 }}
{{- end }}
{{- end -}}

{{- define "component.service" -}}
{{- if .values.enabled }}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "component.fullname" . }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "component.selectorLabels" . | nindent 4 }}
  {{- with .values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .values.service.type }}
  ports:
    {{- toYaml .values.service.ports | nindent 4 }}
    {{- if .metrics.serviceMonitor.enable }}
    - name: metrics-port
      port: {{ .metrics.port }}
      targetPort: metrics-port
    {{- end }}
  selector:
    {{- include "component.selectorLabels" . | nindent 4 }}
  {{- with .values.service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "component.serviceMonitor" -}}
{{- if and .values.enabled .metrics.serviceMonitor.enable }}
{{- $namespace := .metrics.serviceMonitor.namespace | default .root.Values.actionsMetrics.serviceMonitor.namespace }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "component.fullname" . | trunc 47 }}-service-monitor
  namespace: {{ $namespace | default (include "arc.namespace" .root) }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
    {{- with .metrics.serviceMonitorLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  endpoints:
    {{- include "arc.monitorEndpoint" . | nindent 4 }}
  {{- if $namespace }}
  namespaceSelector:
    matchNames: [{{ include "arc.namespace" .root }}]
  {{- end }}
  selector:
    matchLabels:
      {{- include "component.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "component.ingress" -}}
{{- if and .values.enabled .values.ingress.enabled }}
{{- $name := include "component.fullname" . }}
{{- $port := (index .values.service.ports 0).port }}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $name }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
  {{- with .values.ingress.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .values.ingress.tls }}
  tls:
    {{- range . }}
    - hosts:
        {{- range .hosts }}
        - {{ . | quote }}
        {{- end }}
      secretName: {{ .secretName }}
    {{- end }}
  {{- end }}
  {{- with .values.ingress.ingressClassName }}
  ingressClassName: {{ . }}
  {{- end }}
  rules:
    {{- range .values.ingress.hosts }}
    - host: {{ .host | quote }}
      http:
        paths:
          {{- with .extraPaths }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
          {{- $paths := .paths }}
          {{- if not (or .paths .extraPaths) }}
          {{- $paths = list (dict "path" "/" "pathType" "Prefix") }}
          {{- end }}
          {{- range $paths }}
          - path: {{ .path }}
            pathType: {{ .pathType | default "Prefix" }}
            backend:
              service:
                name: {{ $name }}
                port:
                  number: {{ $port }}
          {{- end }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* The bindings of the component's ClusterRole. */}}
{{- define "component.roleBinding" -}}
{{- if .values.enabled }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "component.fullname" . }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "component.fullname" . }}
subjects:
  - kind: ServiceAccount
    name: {{ include "component.serviceAccountName" . }}
    namespace: {{ include "arc.namespace" .root }}
{{- end }}
{{- end -}}

{{/* The Deployment; .args and .env are the component's own lines, ready made. */}}
{{- define "component.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "component.fullname" . }}
  namespace: {{ include "arc.namespace" .root }}
  labels:
    {{- include "arc.labels" .root | nindent 4 }}
spec:
  replicas: {{ .values.replicaCount }}
  selector:
    matchLabels:
      {{- include "component.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- with .values.podAnnotations }}
      annotations:
        {{ $.containerAnnotation }}: {{ $.suffix | quote }}
        {{- toYaml . | nindent 8 }}
      {{- end }}
      labels:
        {{- include "component.selectorLabels" . | nindent 8 }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- with .values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      serviceAccountName: {{ include "component.serviceAccountName" . }}
      securityContext:
        {{- toYaml .values.podSecurityContext | nindent 8 }}
      {{- with .values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      containers:
        - name: {{ .suffix }}
          image: {{ include "arc.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command:
            - /{{ .suffix }}
          args:
            - {{ include "arc.metricsFlag" . | quote }}
            {{- .args | nindent 12 }}
          env:
            - name: GITHUB_WEBHOOK_SECRET_TOKEN
              valueFrom:
                secretKeyRef:
                  name: {{ include "component.secretName" . }}
                  key: github_webhook_secret_token
                  optional: true
            {{- include "arc.githubUrls" .root | nindent 12 }}
            {{- .env | nindent 12 }}
            {{- include "arc.env" .values.env | nindent 12 }}
          ports:
            - containerPort: 8000
              name: http
              protocol: TCP
            {{- if not .metrics.proxy.enabled }}
            - containerPort: {{ .metrics.port }}
              name: metrics-port
              protocol: TCP
            {{- end }}
          {{- with .values.livenessProbe }}
          livenessProbe:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .values.readinessProbe }}
          readinessProbe:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- toYaml .values.securityContext | nindent 12 }}
          {{- with .values.lifecycle }}
          lifecycle:
            {{- toYaml . | nindent 12 }}
          {{- end }}
        {{- if .metrics.proxy.enabled }}
        {{- include "arc.metricsProxy" . | nindent 8 }}
        {{- end }}
      terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
      {{- include "arc.placement" (dict "values" .values "root" .root "selector" (include "component.selectorLabels" .)) | nindent 6 }}
{{- end -}}
