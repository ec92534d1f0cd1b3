//! Tables of the Kubernetes types that our kinds embed (spec 01 §8.3): the list and map types and defaults that
//! Kubernetes declares and the generated Rust model leaves out.
//!
//! Left out on purpose, as upstream does: marks of `claims` in resource requirements, and the defaults `cachingMode`
//! and `kind` of `azureDisk`.

use super::shape::{
    Mark::{
        AtomicList, AtomicMap, Flag, GranularMap, IntOrString, Is, Keyed, Metadata, NotRequired, Set, Text,
    },
    Shape,
};

/// Types without anything to set: their descriptions are dropped, no more.
pub(super) static PLAIN: Shape = Shape(&[]);

/// Conditions.
pub(super) static KEYED_BY_TYPE: Shape = Shape(&[("", Keyed(&["type"]))]);

pub(super) static LABEL_SELECTOR: Shape = Shape(&[
    ("", AtomicMap),
    ("matchExpressions", AtomicList),
    ("matchExpressions[].values", AtomicList),
]);

/// A reference to an object of the same namespace by name, also as a part of another type.
pub(super) static LOCAL_REFERENCE: Shape =
    Shape(&[("", AtomicMap), ("", NotRequired("name")), ("name", Text(""))]);

static NODE_TERM: Shape = Shape(&[
    ("", AtomicMap),
    ("matchExpressions", AtomicList),
    ("matchExpressions[].values", AtomicList),
    ("matchFields", AtomicList),
    ("matchFields[].values", AtomicList),
]);

static POD_TERM: Shape = Shape(&[
    ("labelSelector", Is(&LABEL_SELECTOR)),
    ("namespaceSelector", Is(&LABEL_SELECTOR)),
    ("matchLabelKeys", AtomicList),
    ("mismatchLabelKeys", AtomicList),
    ("namespaces", AtomicList),
]);

static POD_TERMS: Shape = Shape(&[
    ("preferredDuringSchedulingIgnoredDuringExecution", AtomicList),
    (
        "preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm",
        Is(&POD_TERM),
    ),
    ("requiredDuringSchedulingIgnoredDuringExecution", AtomicList),
    ("requiredDuringSchedulingIgnoredDuringExecution[]", Is(&POD_TERM)),
]);

pub(super) static AFFINITY: Shape = Shape(&[
    (
        "nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        AtomicList,
    ),
    (
        "nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference",
        Is(&NODE_TERM),
    ),
    (
        "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        AtomicMap,
    ),
    (
        "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
        AtomicList,
    ),
    (
        "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[]",
        Is(&NODE_TERM),
    ),
    ("podAffinity", Is(&POD_TERMS)),
    ("podAntiAffinity", Is(&POD_TERMS)),
]);

pub(super) static ENV_VAR: Shape = Shape(&[
    ("valueFrom.configMapKeyRef", Is(&LOCAL_REFERENCE)),
    ("valueFrom.fieldRef", AtomicMap),
    ("valueFrom.fileKeyRef", AtomicMap),
    ("valueFrom.fileKeyRef.optional", Flag(false)),
    ("valueFrom.resourceFieldRef", AtomicMap),
    ("valueFrom.secretKeyRef", Is(&LOCAL_REFERENCE)),
]);

pub(super) static ENV_FROM: Shape = Shape(&[
    ("configMapRef", Is(&LOCAL_REFERENCE)),
    ("secretRef", Is(&LOCAL_REFERENCE)),
]);

static HANDLER: Shape = Shape(&[
    ("exec.command", AtomicList),
    ("httpGet.httpHeaders", AtomicList),
    ("httpGet.port", IntOrString),
    ("tcpSocket.port", IntOrString),
]);

static PROBE: Shape = Shape(&[("", Is(&HANDLER)), ("grpc.service", Text(""))]);

/// `Container` and `EphemeralContainer`.
pub(super) static CONTAINER: Shape = Shape(&[
    ("args", AtomicList),
    ("command", AtomicList),
    ("env", Keyed(&["name"])),
    ("env[]", Is(&ENV_VAR)),
    ("envFrom", AtomicList),
    ("envFrom[]", Is(&ENV_FROM)),
    ("lifecycle.postStart", Is(&HANDLER)),
    ("lifecycle.preStop", Is(&HANDLER)),
    ("livenessProbe", Is(&PROBE)),
    ("ports", Keyed(&["containerPort", "protocol"])),
    ("ports[].protocol", Text("TCP")),
    ("readinessProbe", Is(&PROBE)),
    ("resizePolicy", AtomicList),
    ("restartPolicyRules", AtomicList),
    ("restartPolicyRules[].exitCodes.values", Set),
    ("securityContext.capabilities.add", AtomicList),
    ("securityContext.capabilities.drop", AtomicList),
    ("startupProbe", Is(&PROBE)),
    ("volumeDevices", Keyed(&["devicePath"])),
    ("volumeMounts", Keyed(&["mountPath"])),
    ("volumeMounts[]", Is(&VOLUME_MOUNT)),
]);

pub(super) static VOLUME_MOUNT: Shape = Shape(&[("bindMountOptions", Set)]);

pub(super) static POD_SECURITY: Shape = Shape(&[("supplementalGroups", AtomicList), ("sysctls", AtomicList)]);

pub(super) static HOST_ALIAS: Shape = Shape(&[("hostnames", AtomicList)]);

pub(super) static SPREAD: Shape = Shape(&[
    ("labelSelector", Is(&LABEL_SELECTOR)),
    ("matchLabelKeys", AtomicList),
]);

pub(super) static DNS_CONFIG: Shape = Shape(&[
    ("nameservers", AtomicList),
    ("options", AtomicList),
    ("searches", AtomicList),
]);

static CLAIM_SPEC: Shape = Shape(&[
    ("accessModes", AtomicList),
    ("dataSource", AtomicMap),
    ("selector", Is(&LABEL_SELECTOR)),
]);

static CLAIM: Shape = Shape(&[
    ("", NotRequired("metadata")),
    ("metadata", Metadata),
    ("spec", Is(&CLAIM_SPEC)),
    ("status.accessModes", AtomicList),
    ("status.allocatedResourceStatuses", GranularMap),
    ("status.conditions", Keyed(&["type"])),
]);

pub(super) static CLAIMS: Shape = Shape(&[("", AtomicList), ("[]", Is(&CLAIM))]);

static PROJECTED_SOURCE: Shape = Shape(&[
    ("clusterTrustBundle.labelSelector", Is(&LABEL_SELECTOR)),
    ("configMap", Is(&LOCAL_REFERENCE)),
    ("configMap.items", AtomicList),
    ("downwardAPI", Is(&DOWNWARD)),
    ("secret", Is(&LOCAL_REFERENCE)),
    ("secret.items", AtomicList),
]);

static DOWNWARD: Shape = Shape(&[
    ("items", AtomicList),
    ("items[].fieldRef", AtomicMap),
    ("items[].resourceFieldRef", AtomicMap),
]);

pub(super) static VOLUME: Shape = Shape(&[
    ("azureDisk.fsType", Text("ext4")),
    ("azureDisk.readOnly", Flag(false)),
    ("cephfs.monitors", AtomicList),
    ("cephfs.secretRef", Is(&LOCAL_REFERENCE)),
    ("cinder.secretRef", Is(&LOCAL_REFERENCE)),
    ("configMap", Is(&LOCAL_REFERENCE)),
    ("configMap.items", AtomicList),
    ("csi.nodePublishSecretRef", Is(&LOCAL_REFERENCE)),
    ("downwardAPI", Is(&DOWNWARD)),
    ("ephemeral.volumeClaimTemplate.metadata", Metadata),
    ("ephemeral.volumeClaimTemplate.spec", Is(&CLAIM_SPEC)),
    ("fc.targetWWNs", AtomicList),
    ("fc.wwids", AtomicList),
    ("flexVolume.secretRef", Is(&LOCAL_REFERENCE)),
    ("iscsi.iscsiInterface", Text("default")),
    ("iscsi.portals", AtomicList),
    ("iscsi.secretRef", Is(&LOCAL_REFERENCE)),
    ("projected.sources", AtomicList),
    ("projected.sources[]", Is(&PROJECTED_SOURCE)),
    ("rbd.keyring", Text("/etc/ceph/keyring")),
    ("rbd.monitors", AtomicList),
    ("rbd.pool", Text("rbd")),
    ("rbd.secretRef", Is(&LOCAL_REFERENCE)),
    ("rbd.user", Text("admin")),
    ("scaleIO.fsType", Text("xfs")),
    ("scaleIO.secretRef", Is(&LOCAL_REFERENCE)),
    ("scaleIO.storageMode", Text("ThinProvisioned")),
    ("secret.items", AtomicList),
    ("storageos.secretRef", Is(&LOCAL_REFERENCE)),
]);

pub(super) static UPDATE_STRATEGY: Shape = Shape(&[("rollingUpdate.maxUnavailable", IntOrString)]);

/// The whole of a pod template, where lists have the types that Kubernetes gives them.
pub(super) static POD_TEMPLATE: Shape = Shape(&[("metadata", Metadata), ("spec", Is(&POD))]);

static POD: Shape = Shape(&[
    ("affinity", Is(&AFFINITY)),
    ("containers", Keyed(&["name"])),
    ("containers[]", Is(&CONTAINER)),
    ("dnsConfig", Is(&DNS_CONFIG)),
    ("ephemeralContainers", Keyed(&["name"])),
    ("ephemeralContainers[]", Is(&CONTAINER)),
    ("evictionResponders", Keyed(&["name"])),
    ("hostAliases", Keyed(&["ip"])),
    ("hostAliases[]", Is(&HOST_ALIAS)),
    ("imagePullSecrets", Keyed(&["name"])),
    ("imagePullSecrets[]", Is(&LOCAL_REFERENCE)),
    ("initContainers", Keyed(&["name"])),
    ("initContainers[]", Is(&CONTAINER)),
    ("nodeSelector", AtomicMap),
    ("readinessGates", AtomicList),
    ("resourceClaims", Keyed(&["name"])),
    ("schedulingGates", Keyed(&["name"])),
    ("securityContext", Is(&POD_SECURITY)),
    ("tolerations", AtomicList),
    (
        "topologySpreadConstraints",
        Keyed(&["topologyKey", "whenUnsatisfiable"]),
    ),
    ("topologySpreadConstraints[]", Is(&SPREAD)),
    ("volumes", Keyed(&["name"])),
    ("volumes[]", Is(&VOLUME)),
]);
