package v1alpha1

// ConditionAccepted says whether an object counts: it is valid and everything it names exists and may be used.
const ConditionAccepted = "Accepted"

// Reasons of ConditionAccepted. ReasonAccepted goes with True, all others with False.
const (
	// ReasonAccepted: the object counts as written.
	ReasonAccepted = "Accepted"
	// ReasonTierNotFound: a tierRef names a RateLimitTier that does not exist.
	ReasonTierNotFound = "TierNotFound"
	// ReasonTierNotPermitted: the tier's allowedNamespaces leave the object's namespace out.
	ReasonTierNotPermitted = "TierNotPermitted"
	// ReasonOverrideNotPermitted: the quota changes a limit of its tier in a way the tier's keyOverrides forbid.
	ReasonOverrideNotPermitted = "OverrideNotPermitted"
	// ReasonSecretNotFound: a secretKeyRef names a Secret, or a key in it, that does not exist, that the operator does not look
	// for because of its --secret-namespaces, or that is not read because there are too many in the Secret.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretNotLabelled: the Secret lacks the label tierkeeper.io/secret: "true".
	ReasonSecretNotLabelled = "SecretNotLabelled"
	// ReasonKeyEmpty: the Secret holds an empty API key.
	ReasonKeyEmpty = "KeyEmpty"
	// ReasonKeyInvalid: the Secret holds something that no client can send as an API key in a header.
	ReasonKeyInvalid = "KeyInvalid"
	// ReasonCertificateInvalid: a Secret that is named as a certificate, or as certificates of authorities, does not hold any
	// that could be used.
	ReasonCertificateInvalid = "CertificateInvalid"
	// ReasonKeyClaimed: another ApiKeyQuota, older or first by namespace and name, holds the same API key.
	ReasonKeyClaimed = "KeyClaimed"
	// ReasonUserClaimed: another UserQuota, older or first by name, limits the same user.
	ReasonUserClaimed = "UserClaimed"
	// ReasonModelConflict: another ModelLimit, older or first by name, names the same model or pattern.
	ReasonModelConflict = "ModelConflict"
	// ReasonParentNotFound: parentRef names a ModelLimit that does not exist, is not accepted, or has a parent itself.
	ReasonParentNotFound = "ParentNotFound"
	// ReasonCapacityConflict: a ModelLimit and its parent both have a capacity, and a request can wait in one place only.
	ReasonCapacityConflict = "CapacityConflict"
	// ReasonInvalidSelector: a label selector cannot be evaluated.
	ReasonInvalidSelector = "InvalidSelector"
	// ReasonInvalidRoute: two routes of a gateway match the same requests, or no request can match a route.
	ReasonInvalidRoute = "InvalidRoute"
	// ReasonTooManyLimits: a request could meet more than 32 limits at once, more than its lease can carry.
	ReasonTooManyLimits = "TooManyLimits"
)

// ConditionProgrammed says whether what enforces an object has it in force: the Envoys of a QuotaGateway, and the replicas of
// the rate-limit service for every other kind.
const ConditionProgrammed = "Programmed"

// Reasons of ConditionProgrammed. ReasonProgrammed goes with True, all others with False.
const (
	// ReasonProgrammed: everyone that enforces the object has acknowledged this generation.
	ReasonProgrammed = "Programmed"
	// ReasonPending: not everyone has acknowledged this generation yet.
	ReasonPending = "Pending"
	// ReasonEnvoyRejected: an Envoy rejected its configuration. The message has its words.
	ReasonEnvoyRejected = "EnvoyRejected"
	// ReasonServiceRejected: a replica of the rate-limit service cannot put the object in force. The message has its words.
	ReasonServiceRejected = "ServiceRejected"
	// ReasonNoDataPlane: nobody is connected that could enforce the object.
	ReasonNoDataPlane = "NoDataPlane"
)

// ConditionReady says whether the object is in force as written: it is accepted and programmed.
const ConditionReady = "Ready"

// Reasons of ConditionReady, and ReasonNotAccepted of ConditionProgrammed too. ReasonReady goes with True, the others with
// False.
const (
	// ReasonReady: the object is in force as written.
	ReasonReady = "Ready"
	// ReasonNotAccepted: the object does not count as written; ConditionAccepted says why.
	ReasonNotAccepted = "NotAccepted"
	// ReasonNotProgrammed: the object is not in force everywhere; ConditionProgrammed says why.
	ReasonNotProgrammed = "NotProgrammed"
)

// ConditionApproachingLimit says whether the use of any limit has reached a threshold of spec.alerts, of the quota or else of its
// tier.
const ConditionApproachingLimit = "ApproachingLimit"

// Reasons of ConditionApproachingLimit.
const (
	// ReasonThresholdReached goes with True: the message names the limit and the threshold.
	ReasonThresholdReached = "ThresholdReached"
	// ReasonBelowThresholds goes with False.
	ReasonBelowThresholds = "BelowThresholds"
)

// ConditionExhausted says whether any limit is used up, so that requests are refused.
const ConditionExhausted = "Exhausted"

// Reasons of ConditionExhausted.
const (
	// ReasonLimitReached goes with True: the message names the limit and when it resets.
	ReasonLimitReached = "LimitReached"
	// ReasonWithinLimits goes with False.
	ReasonWithinLimits = "WithinLimits"
)
