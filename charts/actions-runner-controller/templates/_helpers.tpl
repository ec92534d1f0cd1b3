{{/* Where everything goes. */}}
{{- define "arc.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "arc.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Cuts as ARC's chart does, because objects that exist have these names. */}}
{{- define "arc.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A name of at most .max characters. One that is too long ends in a hash of the whole, so that two long names stay two. */}}
{{- define "arc.short" -}}
{{- if le (len .name) (int .max) -}}
{{- .name -}}
{{- else -}}
{{- printf "%s-%s" (.name | trunc (int (sub .max 9)) | trimSuffix "-") (.name | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "arc.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "arc.selectorLabels" -}}
app.kubernetes.io/name: {{ include "arc.name" . }}
app.kubernetes.io/instance: {{ include "arc.short" (dict "name" .Release.Name "max" 63) }}
{{- end -}}

{{- define "arc.labels" -}}
helm.sh/chart: {{ include "arc.chart" . }}
{{ include "arc.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- range $key, $value := .Values.labels }}
{{ $key }}: {{ toString $value | quote }}
{{- end }}
{{- end -}}

{{- define "arc.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "arc.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "arc.secretName" -}}
{{- .Values.authSecret.name | default (include "arc.fullname" .) -}}
{{- end -}}

{{- define "arc.managerRoleName" -}}{{ include "arc.fullname" . }}-manager{{- end -}}
{{- define "arc.leaderElectionRoleName" -}}{{ include "arc.fullname" . }}-leader-election{{- end -}}
{{- define "arc.authProxyRoleName" -}}{{ include "arc.fullname" . }}-proxy{{- end -}}
{{- define "arc.webhookServiceName" -}}{{ include "arc.fullname" . | trunc 55 }}-webhook{{- end -}}
{{- define "arc.metricsServiceName" -}}{{ include "arc.fullname" . | trunc 47 }}-metrics-service{{- end -}}
{{- define "arc.serviceMonitorName" -}}{{ include "arc.fullname" . | trunc 47 }}-service-monitor{{- end -}}
{{- define "arc.selfsignedIssuerName" -}}{{ include "arc.fullname" . }}-selfsigned-issuer{{- end -}}
{{- define "arc.servingCertName" -}}{{ include "arc.fullname" . }}-serving-cert{{- end -}}
{{- define "arc.pdbName" -}}{{ include "arc.fullname" . | trunc 59 }}-pdb{{- end -}}
{{- define "arc.mutatingWebhookName" -}}{{ include "arc.fullname" . }}-mutating-webhook-configuration{{- end -}}
{{- define "arc.validatingWebhookName" -}}{{ include "arc.fullname" . }}-validating-webhook-configuration{{- end -}}

{{- define "arc.watchNamespace" -}}
{{- .Values.scope.watchNamespace | default (include "arc.namespace" .) -}}
{{- end -}}

{{- define "arc.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default (printf "v%s" .Chart.AppVersion)) -}}
{{- end -}}

{{/* Numbers of a values file are floats to the template engine: 1234567 would become 1.234567e+06. */}}
{{- define "arc.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Variables as a map (sorted, values are text) or as a list (verbatim). */}}
{{- define "arc.env" -}}
{{- if kindIs "map" . -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ include "arc.text" $value | quote }}
{{- end }}
{{- else if . }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* Data of a Secret: those of .keys that .values has. */}}
{{- define "arc.secretData" -}}
{{- range $key := .keys }}
{{- with get $.values $key }}
{{ $key }}: {{ include "arc.text" . | b64enc | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Which GitHub. */}}
{{- define "arc.githubUrls" -}}
{{- with .Values.githubEnterpriseServerURL }}
- name: GITHUB_ENTERPRISE_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.githubURL }}
- name: GITHUB_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.githubUploadURL }}
- name: GITHUB_UPLOAD_URL
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The login: .secret is the Secret's name, .root the chart's context. */}}
{{- define "arc.githubLogin" -}}
{{- $secret := .secret }}
{{- range $variable := list "GITHUB_TOKEN" "GITHUB_APP_ID" "GITHUB_APP_INSTALLATION_ID" "GITHUB_APP_PRIVATE_KEY" }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ lower $variable }}
      optional: true
{{- end }}
{{- with .root.Values.authSecret }}
- name: GITHUB_BASICAUTH_USERNAME
  {{- if .github_basicauth_username }}
  value: {{ .github_basicauth_username | quote }}
  {{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ include "arc.secretName" $.root }}
      key: github_basicauth_username
      optional: true
  {{- end }}
{{- end }}
- name: GITHUB_BASICAUTH_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "arc.secretName" .root }}
      key: github_basicauth_password
      optional: true
{{- end -}}

{{/* Where metrics are: on loopback behind the proxy, or open. .metrics is the section of the values. */}}
{{- define "arc.metricsFlag" -}}
{{- if .metrics.proxy.enabled -}}
--metrics-addr=127.0.0.1:8080
{{- else -}}
--metrics-addr=0.0.0.0:{{ .metrics.port }}
{{- end -}}
{{- end -}}

{{/* The sidecar that asks the API server who may read metrics. */}}
{{- define "arc.metricsProxy" -}}
- name: kube-rbac-proxy
  image: "{{ .metrics.proxy.image.repository }}:{{ .metrics.proxy.image.tag }}"
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - "--secure-listen-address=0.0.0.0:{{ .metrics.port }}"
    - "--upstream=http://127.0.0.1:8080/"
    - "--logtostderr=true"
    - "--v=2"
  ports:
    - containerPort: {{ .metrics.port }}
      name: metrics-port
  resources:
    {{- toYaml .root.Values.resources | nindent 4 }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
{{- end -}}

{{/* An endpoint of a ServiceMonitor. */}}
{{- define "arc.monitorEndpoint" -}}
- path: /metrics
  port: metrics-port
  interval: {{ .metrics.serviceMonitor.interval }}
  scrapeTimeout: {{ .metrics.serviceMonitor.timeout }}
  {{- if .metrics.proxy.enabled }}
  scheme: https
  bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
  tlsConfig:
    insecureSkipVerify: true
  {{- end }}
{{- end -}}

{{/* How many pods may go at a time; 0 is a number too. .pdb is the section of the values. */}}
{{- define "arc.pdbBounds" -}}
{{- if not (kindIs "invalid" .minAvailable) }}
minAvailable: {{ .minAvailable }}
{{- end }}
{{- if not (kindIs "invalid" .maxUnavailable) }}
maxUnavailable: {{ .maxUnavailable }}
{{- end }}
{{- end -}}

{{/*
The two HTTP components are alike. A component is a dict: root (the chart's context), values (its section), suffix (its name), metrics (the
section that says where its metrics are).
*/}}
{{- define "component.name" -}}
{{- .values.nameOverride | default .root.Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "component.instance" -}}
{{- include "arc.short" (dict "name" (printf "%s-%s" .root.Release.Name .suffix) "max" 63) -}}
{{- end -}}

{{- define "component.fullname" -}}
{{- $name := .values.nameOverride | default .root.Chart.Name -}}
{{- $instance := printf "%s-%s" .root.Release.Name .suffix -}}
{{- if .values.fullnameOverride -}}
{{- .values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name $instance -}}
{{- include "arc.short" (dict "name" $instance "max" 63) -}}
{{- else -}}
{{- include "arc.short" (dict "name" (printf "%s-%s-%s" .root.Release.Name $name .suffix) "max" 63) -}}
{{- end -}}
{{- end -}}

{{- define "component.selectorLabels" -}}
app.kubernetes.io/name: {{ include "component.name" . }}
app.kubernetes.io/instance: {{ include "component.instance" . }}
{{- end -}}

{{- define "component.serviceAccountName" -}}
{{- if .values.serviceAccount.create -}}
{{- .values.serviceAccount.name | default (include "component.fullname" .) -}}
{{- else -}}
{{- .values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "component.secretName" -}}
{{- .values.secret.name | default (include "component.fullname" .) -}}
{{- end -}}

{{/* Where pods run: .values is a section of the values. With high availability (.root) those of .selector keep apart where they can. */}}
{{- define "arc.placement" -}}
{{- range $key := list "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" }}
{{- with get $.values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if and .root (not .values.topologySpreadConstraints) }}
{{- if .root.Values.highAvailability.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- .selector | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Flags that ARC's manager does not have. They appear only when they differ from the binary's default, so that ARC's image takes the rest. */}}
{{- define "arc.managerExtensions" -}}
{{- with .Values.autoscaling.demandMerge }}
- "--demand-merge={{ . }}"
{{- end }}
{{- with .Values.recovery.queueReconciliation.period }}
- "--queue-reconciliation-period={{ include "arc.text" . }}"
{{- end }}
{{- with .Values.recovery.queueReconciliation.callsPerHour }}
- "--queue-reconciliation-calls-per-hour={{ include "arc.text" . }}"
{{- end }}
{{- if .Values.admissionWebHooks.selfSigned }}
- "--admission-self-signed"
- "--admission-service-name={{ include "arc.webhookServiceName" . }}"
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* What the metrics proxy asks the API server. */}}
{{- define "arc.proxyRules" -}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{/* A binding of the manager's ServiceAccount: .kind is Role or ClusterRole, .name the role's name. */}}
{{- define "arc.managerBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "arc.serviceAccountName" .root }}
    namespace: {{ include "arc.namespace" .root }}
{{- end -}}
