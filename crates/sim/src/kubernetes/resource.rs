//! The kinds of objects that this server knows, and the paths at which it serves them.

/// What is stored under one name. Core Events and those of `events.k8s.io` are the same objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    /// `v1` Namespaces.
    Namespaces,
    /// `v1` Secrets.
    Secrets,
    /// `v1` ConfigMaps.
    ConfigMaps,
    /// Events.
    Events,
    /// `v1` Pods.
    Pods,
    /// `apps/v1` Deployments.
    Deployments,
    /// `apps/v1` StatefulSets.
    StatefulSets,
    /// `apps/v1` DaemonSets.
    DaemonSets,
    /// `batch/v1` CronJobs.
    CronJobs,
    /// `coordination.k8s.io/v1` Leases.
    Leases,
}

impl Resource {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Namespaces,
        Self::Secrets,
        Self::ConfigMaps,
        Self::Events,
        Self::Pods,
        Self::Deployments,
        Self::StatefulSets,
        Self::DaemonSets,
        Self::CronJobs,
        Self::Leases,
    ];

    /// As it is called in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Secrets => "secrets",
            Self::ConfigMaps => "configmaps",
            Self::Events => "events",
            Self::Pods => "pods",
            Self::Deployments => "deployments",
            Self::StatefulSets => "statefulsets",
            Self::DaemonSets => "daemonsets",
            Self::CronJobs => "cronjobs",
            Self::Leases => "leases",
        }
    }

    /// As one object of it is called.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Namespaces => "Namespace",
            Self::Secrets => "Secret",
            Self::ConfigMaps => "ConfigMap",
            Self::Events => "Event",
            Self::Pods => "Pod",
            Self::Deployments => "Deployment",
            Self::StatefulSets => "StatefulSet",
            Self::DaemonSets => "DaemonSet",
            Self::CronJobs => "CronJob",
            Self::Leases => "Lease",
        }
    }

    /// Whether its objects belong to a namespace.
    pub fn is_namespaced(self) -> bool {
        self != Self::Namespaces
    }

    /// Whether an update of an object that does not exist creates it.
    pub(super) fn is_created_by_update(self) -> bool {
        matches!(self, Self::Leases | Self::Events)
    }

    /// Whether an update may leave out the resourceVersion.
    pub(super) fn is_updated_unconditionally(self) -> bool {
        self != Self::Leases
    }

    /// Whether its objects count the changes to their spec.
    pub(super) fn has_generation(self) -> bool {
        matches!(
            self,
            Self::Deployments | Self::StatefulSets | Self::DaemonSets | Self::CronJobs
        )
    }

    /// The fields by which its objects can be selected, beside name and namespace.
    pub(super) fn selectable_fields(self) -> &'static [&'static str] {
        match self {
            Self::Secrets => &["type"],
            Self::Namespaces => &["status.phase"],
            Self::Events => &[
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.uid",
                "reason",
                "reportingComponent",
                "type",
            ],
            Self::Pods => &["spec.nodeName", "status.phase"],
            _ => &[],
        }
    }
}

/// A resource as one API group serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub(super) resource: Resource,
    pub(super) group: &'static str,
    /// Group and version, as objects name them.
    pub(super) api_version: &'static str,
}

impl Endpoint {
    const ALL: [Self; 11] = [
        Self::new(Resource::Namespaces, "", "v1"),
        Self::new(Resource::Secrets, "", "v1"),
        Self::new(Resource::ConfigMaps, "", "v1"),
        Self::new(Resource::Events, "", "v1"),
        Self::new(Resource::Pods, "", "v1"),
        Self::new(Resource::Deployments, "apps", "apps/v1"),
        Self::new(Resource::StatefulSets, "apps", "apps/v1"),
        Self::new(Resource::DaemonSets, "apps", "apps/v1"),
        Self::new(Resource::CronJobs, "batch", "batch/v1"),
        Self::new(Resource::Leases, "coordination.k8s.io", "coordination.k8s.io/v1"),
        Self::new(Resource::Events, "events.k8s.io", "events.k8s.io/v1"),
    ];

    const fn new(resource: Resource, group: &'static str, api_version: &'static str) -> Self {
        Self {
            resource,
            group,
            api_version,
        }
    }

    /// Finds the resource that this group and version call so.
    pub(super) fn find(api_version: &str, plural: &str) -> Option<Self> {
        let fits =
            |endpoint: &&Self| endpoint.api_version == api_version && endpoint.resource.plural() == plural;
        Self::ALL.iter().find(fits).copied()
    }

    /// Whether it shows Events as `events.k8s.io` does.
    pub(super) fn shows_new_events(self) -> bool {
        self.group == "events.k8s.io"
    }

    /// The resource with its group, as messages name it: `leases.coordination.k8s.io`.
    pub(super) fn qualified(self) -> String {
        with_group(self.resource.plural(), self.group)
    }

    /// The kind with its group: `Lease.coordination.k8s.io`.
    pub(super) fn qualified_kind(self) -> String {
        with_group(self.resource.kind(), self.kind_group())
    }

    /// The group of the kind. Events are core objects inside, whichever group was asked.
    pub(super) fn kind_group(self) -> &'static str {
        if self.resource == Resource::Events {
            return "";
        }
        self.group
    }
}

fn with_group(word: &str, group: &str) -> String {
    if group.is_empty() {
        return word.to_owned();
    }
    format!("{word}.{group}")
}
