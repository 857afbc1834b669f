"""What Argo CD and Flux would give to Helm for each cluster of examples/multi-cluster, and what plain helm is told.

usage: multi-cluster.py FOLDER OUT

For each cluster and each way it writes OUT/CLUSTER.WAY/ with the values files 1.yaml, 2.yaml … in their order; they all
have one release name and one namespace. OUT/clusters lists the clusters; OUT/argocd.objects and OUT/CLUSTER.objects hold what
Argo CD and Flux are told, and what an ApplicationSet would make of it. kubectl, for its kustomize, has to be on the PATH.
What does not hold is said on stderr, and ends it with 1.
"""

import pathlib
import re
import subprocess
import sys

import yaml

NAMESPACE = RELEASE = "vault-sync-operator"
# A values file as Argo CD names it: wherever the folder is in the Git repository that holds the fleet.
IN_GIT = re.compile(r"\$values/(?:.*/)?(values/[^/]+)")


class Wrong(Exception):
    """Something in the examples that does not hold, in words for a person."""


class Loader(yaml.SafeLoader):
    """As SafeLoader, but a key that stands twice is an error: the first one would be lost without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise Wrong(f"{node.start_mark.name}: {key} stands there twice")
        return super().construct_mapping(node, deep)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [document for document in yaml.load_all(file, Loader) if document is not None]
    except (OSError, yaml.YAMLError) as error:
        raise Wrong(f"{path}: {error}") from error


def dig(document, where, *path):
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            raise Wrong(f"{where}: there is no {'.'.join(map(str, path))}") from None
    return document


def is_a(document, api, kind, where):
    found = (document.get("apiVersion"), document.get("kind"))
    if found != (api, kind):
        raise Wrong(f"{where}: {found[0]} {found[1]}, where {api} {kind} is expected")
    return document


def one(documents, api, kind, where):
    found = [document for document in documents if document.get("kind") == kind]
    if len(found) != 1:
        raise Wrong(f"{where}: {len(found)} objects of the kind {kind}, where one is expected")
    return is_a(found[0], api, kind, where)


def filled_in(template, element, where):
    """The template of an ApplicationSet: only fields of the element, as `{{.name}}`, are understood here."""
    if isinstance(template, dict):
        return {key: filled_in(value, element, where) for key, value in template.items()}
    if isinstance(template, list):
        return [filled_in(value, element, where) for value in template]
    if not isinstance(template, str):
        return template

    def value(match):
        if match[1] not in element:
            raise Wrong(f"{where}: {match[0]} is in no element of the list")
        return str(element[match[1]])

    text = re.sub(r"\{\{\s*\.(\w+)\s*\}\}", value, template)
    if "{{" in text:
        raise Wrong(f"{where}: {text}: this check understands fields of the list only")
    return text


class Way:
    """What one way gives to Helm for one cluster."""

    def __init__(self, cluster, way, release, namespace, address, version, values):
        self.cluster, self.way, self.values = cluster, way, values
        self.chart = f"{address} {version}"
        for what, found, wanted in [("release", release, RELEASE), ("namespace", namespace, NAMESPACE)]:
            if found != wanted:
                raise Wrong(f"{way}, {cluster}: the {what} is {found}, elsewhere {wanted}")

    def write(self, out):
        folder = out / f"{self.cluster}.{self.way}"
        folder.mkdir()
        for number, text in enumerate(self.values, 1):
            (folder / f"{number}.yaml").write_text(text)


def argocd(folder, names):
    where = folder / "argocd/applicationset.yaml"
    sets = one(read(where), "argoproj.io/v1alpha1", "ApplicationSet", where)
    if not dig(sets, where, "spec", "goTemplate"):
        raise Wrong(f"{where}: goTemplate is off, so that {{{{.name}}}} would stay as it is")
    elements = dig(sets, where, "spec", "generators", 0, "list", "elements")
    same(where, [element.get("name") for element in elements], names)
    different(where, "server", [dig(element, where, "server") for element in elements])
    applications, ways = [sets], []
    for element in elements:
        name = element["name"]
        application = filled_in(dig(sets, where, "spec", "template"), element, where)
        metadata = {"namespace": "argocd", **application["metadata"]}
        applications.append({"apiVersion": sets["apiVersion"], "kind": "Application", **application, "metadata": metadata})
        spec = application["spec"]
        chart = [source for source in spec["sources"] if "chart" in source]
        refs = [source for source in spec["sources"] if source.get("ref") == "values"]
        if len(chart) != 1 or len(refs) != 1:
            raise Wrong(f"{where}: one source with a chart and one with ref: values are expected")
        chart = chart[0]
        address = dig(chart, where, "repoURL")
        if "://" in address:
            raise Wrong(f"{where}: {address}: Argo CD wants the address of an OCI registry without oci://")
        address = f"oci://{address}/{chart['chart']}"
        helm, values = dig(chart, where, "helm"), []
        for file in helm.get("valueFiles", []):
            match = IN_GIT.fullmatch(file)
            if not match:
                raise Wrong(f"{where}: {file} is no file of $values/…/values/")
            path = folder / match[1]
            read(path)
            values.append(path.read_text())
        # In the order in which they win.
        if "values" in helm:
            values.append(helm["values"])
        if "valuesObject" in helm:
            values.append(yaml.safe_dump(helm["valuesObject"]))
        if "parameters" in helm:
            raise Wrong(f"{where}: helm.parameters is not understood by this check; use values")
        server, namespace = (dig(spec, where, "destination", key) for key in ["server", "namespace"])
        if server != element["server"]:
            raise Wrong(f"{where}: {name} goes to {server}, not to {element['server']}")
        ways.append(Way(name, "argocd", helm.get("releaseName", application["metadata"]["name"]), namespace, address, chart["targetRevision"], values))
    different(where, "name", [application["metadata"]["name"] for application in applications])
    return applications, ways


def flux(folder, names):
    where = folder / "flux/clusters"
    same(where, sorted(path.name for path in where.iterdir()), names)
    objects, ways = {}, []
    for name in names:
        at = where / name
        built = subprocess.run(["kubectl", "kustomize", at], capture_output=True, text=True, check=False)
        if built.returncode:
            raise Wrong(f"{at}: {built.stderr.strip()}")
        documents = [document for document in yaml.load_all(built.stdout, Loader) if document]
        objects[name] = documents
        is_a(one(documents, "v1", "Namespace", at), "v1", "Namespace", at)
        release = one(documents, "helm.toolkit.fluxcd.io/v2", "HelmRelease", at)
        chart = one(documents, "source.toolkit.fluxcd.io/v1", "OCIRepository", at)
        spec, namespace = release["spec"], release["metadata"]["namespace"]
        ref = dig(spec, at, "chartRef")
        if (ref.get("kind"), ref.get("name"), ref.get("namespace", namespace)) != ("OCIRepository", chart["metadata"]["name"], chart["metadata"]["namespace"]):
            raise Wrong(f"{at}: chartRef does not name the OCIRepository")
        maps = {document["metadata"]["name"]: document for document in documents if document["kind"] == "ConfigMap"}
        values = []
        for source in spec.get("valuesFrom", []):
            found = maps.get(source["name"])
            if source["kind"] != "ConfigMap" or not found or found["metadata"]["namespace"] != namespace:
                raise Wrong(f"{at}: there is no {source['kind']} {source['name']} in {namespace}, which valuesFrom names")
            if "targetPath" in source:
                raise Wrong(f"{at}: targetPath is not understood by this check")
            values.append(dig(found, at, "data", source.get("valuesKey", "values.yaml")))
        if "values" in spec:
            values.append(yaml.safe_dump(spec["values"]))
        # As helm-controller does it, a name that is not given is made of both.
        named = spec.get("releaseName", release["metadata"]["name"])
        ways.append(Way(name, "flux", named, spec.get("targetNamespace", namespace), dig(chart, at, "spec", "url"), dig(chart, at, "spec", "ref", "tag"), values))
    return objects, ways


def same(where, found, wanted):
    if sorted(found) != sorted(wanted):
        raise Wrong(f"{where}: the clusters {', '.join(map(str, found))}; values/ has {', '.join(wanted)}")


def different(where, what, found):
    for value in found:
        if found.count(value) > 1:
            raise Wrong(f"{where}: two clusters have the {what} {value}")


def main(folder, out):
    files = {path.stem: path for path in sorted((folder / "values").glob("*.yaml")) if path.stem not in ["common", "kustomization"]}
    if len(files) < 2:
        raise Wrong(f"{folder}/values: {len(files)} clusters make no fleet")
    own = {name: read(path)[0] for name, path in files.items()}
    for name, values in own.items():
        if dig(values, files[name], "clusterName") != name:
            raise Wrong(f"{files[name]}: clusterName is {values['clusterName']}, not the file's name")
        if dig(values, files[name], "vault", "authPath") != f"clusters/{name}":
            raise Wrong(f"{files[name]}: vault.authPath is {values['vault']['authPath']}, where deploy/setup-vault.sh makes clusters/{name}")
    common = read(folder / "values/common.yaml")[0]
    for key in ["clusterName", "authPath"]:
        if key in common or key in common.get("vault", {}):
            raise Wrong(f"{folder}/values/common.yaml: {key} has to be each cluster's own")
    applications, by_argocd = argocd(folder, list(files))
    objects, by_flux = flux(folder, list(files))
    charts = {way.cluster: way.chart for way in by_argocd}
    for way in by_flux:
        if way.chart != charts[way.cluster]:
            raise Wrong(f"{way.cluster}: Flux installs {way.chart}, Argo CD {charts[way.cluster]}")
    both = (folder / "values/common.yaml").read_text()
    by_helm = [Way(name, "helm", RELEASE, NAMESPACE, "", "", [both, path.read_text()]) for name, path in files.items()]
    for way in by_helm + by_argocd + by_flux:
        way.write(out)
    for name, documents in {"argocd": applications, **objects}.items():
        (out / f"{name}.objects").write_text(yaml.safe_dump_all(documents))
    (out / "clusters").write_text("".join(f"{name}\n" for name in files))


if __name__ == "__main__":
    try:
        main(*map(pathlib.Path, sys.argv[1:]))
    except Wrong as wrong:
        sys.exit(f"error: {wrong}")
