package v1alpha1

// Endpoint is one address of a backend.
type Endpoint struct {
	// address is an IP address or a DNS name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$|^[0-9a-fA-F:.]+$`
	Address string `json:"address,omitempty"`

	// port is the TCP port.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// pool dedicates the endpoint to the requests of tiers that name this pool as their backendPool. Absent means that it
	// serves all others.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Pool string `json:"pool,omitempty"`
}

// Timeouts of a backend. The time of a whole response is not bounded, because streams may run for long.
//
// +kubebuilder:validation:MinProperties=1
type Timeouts struct {
	// connectSeconds bounds the making of a connection. Absent means 5.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	ConnectSeconds int32 `json:"connectSeconds,omitempty"`

	// idleStreamSeconds bounds the time in which nothing moves in either direction. It is never less than a request may wait for
	// the capacity of a model, and 2 seconds. Absent means 600.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	IdleStreamSeconds int32 `json:"idleStreamSeconds,omitempty"`
}

// Trust says which certificate authorities a backend's certificate may come from.
// +kubebuilder:validation:Enum=System;CABundle
type Trust string

const (
	// TrustSystem: those that the machine of the control plane trusts; the environment variable SSL_CERT_FILE names others.
	TrustSystem Trust = "System"
	// TrustCABundle: those in caBundleRef, and no others.
	TrustCABundle Trust = "CABundle"
)

// BackendTLS says how a backend is reached over TLS 1.2 or newer. Its certificate is always verified.
//
// +kubebuilder:validation:XValidation:rule="self.trust == 'CABundle' ? has(self.caBundleRef) : !has(self.caBundleRef)",message="caBundleRef goes with trust CABundle, and only with it"
type BackendTLS struct {
	// sni is the DNS name that the backend is asked for and that its certificate must be for.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	SNI string `json:"sni,omitempty"`

	// trust says which certificate authorities the backend's certificate may come from.
	//
	// +required
	Trust Trust `json:"trust,omitempty"`

	// caBundleRef names a value of a Secret that holds certificates of authorities, in PEM.
	//
	// +optional
	CABundleRef *SecretKeyRef `json:"caBundleRef,omitempty"`
}

// BackendCredential is the gateway's own key at a provider. Clients' keys never get there.
//
// +kubebuilder:validation:XValidation:rule="!(self.header.lowerAscii() in ['accept-encoding', 'connection', 'content-length', 'content-type', 'host', 'te', 'transfer-encoding', 'upgrade'] || self.header.lowerAscii().startsWith('x-tk-'))",message="header must not be one that HTTP, or the gateway, needs for itself"
type BackendCredential struct {
	// header is the name of the request header that carries the key, in any case, such as Authorization.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	Header string `json:"header,omitempty"`

	// prefix stands before the key in the header, as "Bearer " does.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[ -~]+$`
	Prefix string `json:"prefix,omitempty"`

	// secretKeyRef names the value of a Secret that is the key. White space around the value is ignored. A value that changes
	// is in force with the next request.
	//
	// +required
	SecretKeyRef SecretKeyRef `json:"secretKeyRef,omitzero"`
}

// Backend is a provider, or a model server, that requests are forwarded to.
//
// +kubebuilder:validation:XValidation:rule="self.endpoints.exists(e, !has(e.pool))",message="at least one endpoint must have no pool; it serves the tiers that have none"
// +kubebuilder:validation:XValidation:rule="!has(self.credential) || has(self.tls)",message="a credential is sent over TLS only; set tls"
type Backend struct {
	// name is what routes call the backend.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// endpoints lists the backend's addresses. Requests are spread over them, within their pool.
	//
	// +required
	// +listType=map
	// +listMapKey=address
	// +listMapKey=port
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	// tls says how the backend is reached over TLS. Absent means plain HTTP/1.1.
	//
	// +optional
	TLS *BackendTLS `json:"tls,omitempty"`

	// credential is added to every request that is forwarded to the backend.
	//
	// +optional
	Credential *BackendCredential `json:"credential,omitempty"`

	// timeouts of the backend.
	//
	// +optional
	Timeouts *Timeouts `json:"timeouts,omitempty"`
}
