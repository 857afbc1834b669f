// Whose definitions of ApplicationSet, Application, HelmRelease and OCIRepository ci/multi-cluster takes.
module ci.local/fleet

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.4.13
	github.com/fluxcd/helm-controller v1.6.1
	github.com/fluxcd/source-controller v1.9.6
)
