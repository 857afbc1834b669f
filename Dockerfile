# Packs what `hack/build` has built: nothing is compiled, downloaded or run in here.
#   hack/build && hack/image example.com/you/vault-sync-operator:0.1.0
# Both builders, buildah and docker, say what TARGETOS and TARGETARCH are.
FROM scratch
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vault-sync-operator" \
      org.opencontainers.image.description="Keeps the Kubernetes Secrets that your workloads use in HashiCorp Vault" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY dist/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY dist/${TARGETOS}/${TARGETARCH}/vault-sync-operator /vault-sync-operator
USER 65532:65532
ENTRYPOINT ["/vault-sync-operator"]
