package v1alpha1

// ResetFormat is how the time until a window ends is written.
// +kubebuilder:validation:Enum=UnixSeconds;DeltaSeconds;Duration
type ResetFormat string

const (
	// ResetUnixSeconds is the time of the end in seconds since 1970.
	ResetUnixSeconds ResetFormat = "UnixSeconds"
	// ResetDeltaSeconds is the seconds left, rounded up.
	ResetDeltaSeconds ResetFormat = "DeltaSeconds"
	// ResetDuration is the time left as in 6m0s.
	ResetDuration ResetFormat = "Duration"
)

// HeaderWindow names the window whose limit headers report.
// +kubebuilder:validation:Enum=Nearest;Second;Minute;Hour;Day;Month
type HeaderWindow string

// HeaderWindowNearest is the shortest window that has a limit and, of several limits on it, the one with least remaining.
const HeaderWindowNearest HeaderWindow = "Nearest"

// PerMetricHeaders configures x-ratelimit-{limit,remaining,reset}-{requests,tokens}.
type PerMetricHeaders struct {
	// requestsReset is the form of x-ratelimit-reset-requests.
	//
	// +required
	RequestsReset ResetFormat `json:"requestsReset,omitempty"`

	// tokensReset is the form of x-ratelimit-reset-tokens.
	//
	// +required
	TokensReset ResetFormat `json:"tokensReset,omitempty"`

	// window is the window to report. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// PerResourceHeaders configures X-RateLimit-{Limit,Remaining,Reset,Resource,Used} and X-Request-Priority.
//
// +kubebuilder:validation:MinProperties=1
type PerResourceHeaders struct {
	// window is the window to report. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// IETFHeaders configures RateLimit and RateLimit-Policy.
//
// +kubebuilder:validation:MinProperties=1
type IETFHeaders struct {
	// window is the window to report of each metric. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// AnthropicHeaders configures anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}.
//
// +kubebuilder:validation:MinProperties=1
type AnthropicHeaders struct {
	// window is the window to report of each metric. Absent means Nearest.
	//
	// +optional
	Window HeaderWindow `json:"window,omitempty"`
}

// DialectType names a set of response headers.
// +kubebuilder:validation:Enum=PerMetric;PerResource;IETF;Anthropic
type DialectType string

const (
	// DialectPerMetric is x-ratelimit-{limit,remaining,reset}-{requests,tokens}.
	DialectPerMetric DialectType = "PerMetric"
	// DialectPerResource is X-RateLimit-{Limit,Remaining,Reset,Resource,Used} and X-Request-Priority.
	DialectPerResource DialectType = "PerResource"
	// DialectIETF is RateLimit and RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers-11 has them.
	DialectIETF DialectType = "IETF"
	// DialectAnthropic is anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}.
	DialectAnthropic DialectType = "Anthropic"
)

// Dialect is one set of response headers.
//
// +kubebuilder:validation:XValidation:rule="has(self.perMetric) == (self.type == 'PerMetric')",message="perMetric goes with type PerMetric, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.perResource) || self.type == 'PerResource'",message="perResource goes with type PerResource, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.ietf) || self.type == 'IETF'",message="ietf goes with type IETF, and only with it"
// +kubebuilder:validation:XValidation:rule="!has(self.anthropic) || self.type == 'Anthropic'",message="anthropic goes with type Anthropic, and only with it"
type Dialect struct {
	// type names the set.
	//
	// +required
	Type DialectType `json:"type,omitempty"`

	// perMetric configures type PerMetric.
	//
	// +optional
	PerMetric *PerMetricHeaders `json:"perMetric,omitempty"`

	// perResource configures type PerResource.
	//
	// +optional
	PerResource *PerResourceHeaders `json:"perResource,omitempty"`

	// ietf configures type IETF.
	//
	// +optional
	IETF *IETFHeaders `json:"ietf,omitempty"`

	// anthropic configures type Anthropic.
	//
	// +optional
	Anthropic *AnthropicHeaders `json:"anthropic,omitempty"`
}

// ResponseHeaders says what responses tell about limits.
type ResponseHeaders struct {
	// dialects lists the sets of headers that every response carries.
	//
	// +required
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Dialects []Dialect `json:"dialects,omitempty"`
}
