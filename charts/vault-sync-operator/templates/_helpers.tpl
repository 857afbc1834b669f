{{/* The chart's name, or what replaces it. */}}
{{- define "vso.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What every object's name begins with: the release's name, which need not say the chart's twice. */}}
{{- define "vso.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $long := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $long | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "vso.manager" -}}
{{- printf "%s-controller-manager" (include "vso.fullname" .) -}}
{{- end -}}

{{/* A Service's name has 63 characters at most. */}}
{{- define "vso.metricsService" -}}
{{- printf "%s-controller-manager-metrics-service" (include "vso.fullname" . | trunc 28 | trimSuffix "-") -}}
{{- end -}}

{{- define "vso.namespace" -}}
{{- and .Values.namespace.create .Values.namespace.name | default .Release.Namespace -}}
{{- end -}}

{{- define "vso.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "vso.manager" .) "default") -}}
{{- end -}}

{{/* A Deployment's selector cannot change: neither may these. */}}
{{- define "vso.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vso.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
control-plane: controller-manager
{{- end -}}

{{- define "vso.labels" -}}
{{ include "vso.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* The port of an address such as :8080 or [::1]:8080. */}}
{{- define "vso.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}
