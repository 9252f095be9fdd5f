package v1alpha1

// Metric names something that requests use up.
// +kubebuilder:validation:Enum=Requests;Tokens;InputTokens;OutputTokens
type Metric string

const (
	// MetricRequests counts requests, whatever their size; a streamed response is one.
	MetricRequests Metric = "Requests"
	// MetricTokens counts the tokens of prompt and answer together.
	MetricTokens Metric = "Tokens"
	// MetricInputTokens counts the tokens of the prompt.
	MetricInputTokens Metric = "InputTokens"
	// MetricOutputTokens counts the tokens of the answer.
	MetricOutputTokens Metric = "OutputTokens"
)

// Per is the calendar unit, in UTC, after which a count starts again, or how long a window is that slides.
// +kubebuilder:validation:Enum=Second;Minute;Hour;Day;Month
type Per string

const (
	// PerSecond starts again at each full second.
	PerSecond Per = "Second"
	// PerMinute starts again at each full minute.
	PerMinute Per = "Minute"
	// PerHour starts again at each full hour.
	PerHour Per = "Hour"
	// PerDay starts again at midnight UTC.
	PerDay Per = "Day"
	// PerMonth starts again at midnight UTC on the first of each month.
	PerMonth Per = "Month"
)

// Algorithm is the way in which a rate is counted.
// +kubebuilder:validation:Enum=FixedWindow;SlidingWindow
type Algorithm string

const (
	// AlgorithmFixedWindow counts in calendar units, and starts at zero with each. Twice max can pass around the end of one.
	AlgorithmFixedWindow Algorithm = "FixedWindow"
	// AlgorithmSlidingWindow counts what passed within the last unit, at every moment.
	AlgorithmSlidingWindow Algorithm = "SlidingWindow"
)

// Mode says whether there is a limit at all.
// +kubebuilder:validation:Enum=Limited;Unlimited
type Mode string

const (
	// ModeLimited: max holds.
	ModeLimited Mode = "Limited"
	// ModeUnlimited lifts a limit that would otherwise be inherited.
	ModeUnlimited Mode = "Unlimited"
)

// Exceeded is the answer to a request that does not fit.
// +kubebuilder:validation:Enum=TooManyRequests;PaymentRequired;Forbidden;ServiceUnavailable
type Exceeded string

const (
	// ExceededTooManyRequests answers 429.
	ExceededTooManyRequests Exceeded = "TooManyRequests"
	// ExceededPaymentRequired answers 402.
	ExceededPaymentRequired Exceeded = "PaymentRequired"
	// ExceededForbidden answers 403.
	ExceededForbidden Exceeded = "Forbidden"
	// ExceededServiceUnavailable answers 503.
	ExceededServiceUnavailable Exceeded = "ServiceUnavailable"
)

// Enforcement says whether limits refuse what does not fit, or only record it.
// +kubebuilder:validation:Enum=Enforce;Shadow
type Enforcement string

const (
	// EnforcementEnforce: what does not fit is refused.
	EnforcementEnforce Enforcement = "Enforce"
	// EnforcementShadow: what would be refused is recorded and let through; clients see nothing of it. The limits stand beside
	// those that hold without them and replace none.
	EnforcementShadow Enforcement = "Shadow"
)

// Counted says what shares one counter, where a limit is written for several models.
// +kubebuilder:validation:Enum=PerModel;Together
type Counted string

const (
	// CountedPerModel gives each model a counter of its own: one for each exact name, or pattern, that an object names.
	CountedPerModel Counted = "PerModel"
	// CountedTogether gives all models of the entry one counter.
	CountedTogether Counted = "Together"
)

// Rate is a ceiling on one metric in one window of time.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.mode) && self.mode == 'Unlimited' && has(self.algorithm))",message="what is Unlimited is not counted: algorithm must be absent"
// +kubebuilder:validation:XValidation:rule="has(self.mode) && self.mode == 'Unlimited' ? !has(self.max) : has(self.max)",message="max is required, and forbidden when mode is Unlimited"
// +kubebuilder:validation:XValidation:rule="!has(self.algorithm) || self.algorithm != 'SlidingWindow' || self.per in ['Second', 'Minute', 'Hour']",message="SlidingWindow needs per Second, Minute or Hour"
type Rate struct {
	// metric is what is counted.
	//
	// +required
	Metric Metric `json:"metric,omitempty"`

	// per is the calendar unit, in UTC, after which the count starts again, or how long the window is if it slides.
	//
	// +required
	Per Per `json:"per,omitempty"`

	// mode Unlimited lifts the limit that would otherwise be inherited for this metric and unit. Absent means Limited.
	//
	// +optional
	Mode Mode `json:"mode,omitempty"`

	// max is the largest count allowed in one window. Zero allows nothing.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9007199254740991
	Max *int64 `json:"max,omitempty"`

	// algorithm says how the count goes on. FixedWindow starts it again with each calendar unit, so that twice max can pass
	// within a unit's length around the end of one. SlidingWindow lets no more than max pass within a unit's length, wherever
	// that begins, and is for per Second, Minute and Hour; it refuses as if that length were longer by up to a sixteenth. A
	// change of it starts a new count. Absent means FixedWindow.
	//
	// +optional
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// exceeded is the answer to a request that does not fit. Absent means TooManyRequests.
	//
	// +optional
	Exceeded Exceeded `json:"exceeded,omitempty"`
}

// Concurrency is a ceiling on the number of requests under way at once.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.mode) && self.mode == 'Unlimited' ? !has(self.max) : has(self.max)",message="max is required, and forbidden when mode is Unlimited"
type Concurrency struct {
	// mode Unlimited lifts the limit that would otherwise be inherited. Absent means Limited.
	//
	// +optional
	Mode Mode `json:"mode,omitempty"`

	// max is the largest number of requests under way at once. Zero allows none.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Max *int32 `json:"max,omitempty"`
}

// Limits is a set of ceilings. What it does not mention is inherited, or unlimited if nobody mentions it.
//
// +kubebuilder:validation:MinProperties=1
type Limits struct {
	// rates holds at most one ceiling for each pair of metric and per.
	//
	// +optional
	// +listType=map
	// +listMapKey=metric
	// +listMapKey=per
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	Rates []Rate `json:"rates,omitempty"`

	// concurrency bounds the requests under way at once.
	//
	// +optional
	Concurrency *Concurrency `json:"concurrency,omitempty"`
}

// ResourceLimits are limits for the requests of one resource.
type ResourceLimits struct {
	// resource is the name that routes give to what they serve, such as chat, embeddings or images.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Resource string `json:"resource,omitempty"`

	// limits hold for all requests of the resource together.
	//
	// +required
	Limits Limits `json:"limits,omitzero"`
}

// ClassLimits are limits for the models of one class.
type ClassLimits struct {
	// class is a name that ModelLimits give to models of one size or price.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Class string `json:"class,omitempty"`

	// counted says whether each model of the class has a counter of its own. Absent means PerModel.
	//
	// +optional
	Counted Counted `json:"counted,omitempty"`

	// limits hold for requests that ask for a model of the class.
	//
	// +required
	Limits Limits `json:"limits,omitzero"`
}

// ModelLimits are limits for the models with one name or one beginning of a name.
type ModelLimits struct {
	// model is an exact name, or the beginning of names followed by "*".
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^*]+\*?$`
	Model string `json:"model,omitempty"`

	// counted says whether each model that a pattern matches has a counter of its own: one for each exact name, or longer
	// pattern, that a ModelLimit or this object names. Absent means PerModel.
	//
	// +optional
	Counted Counted `json:"counted,omitempty"`

	// limits hold for requests that ask for such a model.
	//
	// +required
	Limits Limits `json:"limits,omitzero"`
}

// KeyLimits are the limits of one holder: over everything, and for parts of it. They hold together.
type KeyLimits struct {
	// limits hold for all requests of the holder.
	//
	// +optional
	Limits *Limits `json:"limits,omitempty"`

	// resources lists limits for single resources.
	//
	// +optional
	// +listType=map
	// +listMapKey=resource
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Resources []ResourceLimits `json:"resources,omitempty"`

	// classes lists limits for classes of models.
	//
	// +optional
	// +listType=map
	// +listMapKey=class
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Classes []ClassLimits `json:"classes,omitempty"`

	// models lists limits for single models. An exact name goes before a pattern, a longer pattern before a shorter one,
	// and both before classes; what goes before replaces the same pair of metric and per.
	//
	// +optional
	// +listType=map
	// +listMapKey=model
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Models []ModelLimits `json:"models,omitempty"`
}

// Ref names an object of a kind that the field decides.
type Ref struct {
	// name is the object's metadata.name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// SecretKeyRef names one value in a Secret of the same namespace. The Secret must carry the label
// tierkeeper.io/secret: "true".
type SecretKeyRef struct {
	// name is the Secret's metadata.name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key in the Secret's data.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}
