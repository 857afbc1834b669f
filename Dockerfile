# Packs what `ci/build` has built: nothing is compiled, downloaded or run in here.
#   ci/build && docker build -t vault-sync-operator .
FROM scratch
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vault-sync-operator" \
      org.opencontainers.image.description="Keeps the Kubernetes Secrets that your workloads use in HashiCorp Vault" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY dist/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY dist/${TARGETOS}/${TARGETARCH}/vault-sync-operator /vault-sync-operator
USER 65532:65532
ENTRYPOINT ["/vault-sync-operator"]
