{{/*
Rights, each where the program makes a call of that kind and nowhere else. `patch` is for the
finalizer and for the predecessor's annotation, which is taken away; the admission policy sees to it
that nothing else is changed.
*/}}

{{/* On workloads and Secrets, in a namespace or in all. */}}
{{- define "vault-sync-operator.sourceRules" -}}
{{- $kinds := splitList "," (include "vault-sync-operator.kinds" .) -}}
{{- $finalizers := eq (include "vault-sync-operator.finalizers" .) "true" -}}
{{- $apps := list -}}
{{- range $kind, $resource := dict "Deployment" "deployments" "StatefulSet" "statefulsets" "DaemonSet" "daemonsets" -}}
{{- if has $kind $kinds }}{{ $apps = append $apps $resource }}{{ end -}}
{{- end -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch{{ if and $finalizers (has "Secret" $kinds) }}, patch{{ end }}]
{{- if $apps }}
- apiGroups: [apps]
  resources: [{{ join ", " $apps }}]
  verbs: [get, list, watch{{ if $finalizers }}, patch{{ end }}]
{{- end }}
{{- if has "CronJob" $kinds }}
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch{{ if $finalizers }}, patch{{ end }}]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* Its UID says which cluster this is. */}}
{{- define "vault-sync-operator.clusterIdRules" -}}
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end -}}

{{/* In the operator's own namespace. */}}
{{- define "vault-sync-operator.homeRules" -}}
# The ledger.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, patch]
# Who leads.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [vault-sync-operator.io]
  verbs: [get, list, watch, update]
# What keeps a pod from being ready is told on the pod.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* Taking finalizers off, before an uninstall: everywhere they can be, whatever the operator itself may do. */}}
{{- define "vault-sync-operator.releaseRules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, patch]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, patch]
{{- end -}}

{{/* Stopping the operator, and forgetting what it has written. */}}
{{- define "vault-sync-operator.releaseHomeRules" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ include "vault-sync-operator.manager" . }}]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: [{{ include "vault-sync-operator.manager" . }}]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [vault-sync-operator.io]
  verbs: [get, list, watch, update, delete]
{{- if dig "forget" false (.Values.uninstall | default dict) }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, delete]
{{- end }}
{{- end -}}

{{/*
A role and its binding: (dict "root" $ "namespace" NAMESPACE-or-empty "name" NAME "rules" RULES "account" NAME
"labels" LABELS "annotations" ANNOTATIONS)
*/}}
{{- define "vault-sync-operator.grant" -}}
{{- $scope := empty .namespace | ternary "Cluster" "" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $scope }}Role
metadata:
  {{- include "vault-sync-operator.grantMetadata" (merge (dict "suffix" "") .) | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $scope }}RoleBinding
metadata:
  {{- include "vault-sync-operator.grantMetadata" (merge (dict "suffix" "-binding") .) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $scope }}Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ include "vault-sync-operator.namespace" .root }}
{{ end -}}

{{- define "vault-sync-operator.grantMetadata" -}}
name: {{ .name }}{{ .suffix }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- .labels | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}
