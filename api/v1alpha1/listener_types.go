package v1alpha1

// ListenerProtocol is what a listener speaks.
// +kubebuilder:validation:Enum=HTTP;HTTPS
type ListenerProtocol string

const (
	// ListenerProtocolHTTP is HTTP/1.1 and HTTP/2 without TLS.
	ListenerProtocolHTTP ListenerProtocol = "HTTP"
	// ListenerProtocolHTTPS is HTTP/1.1 and HTTP/2 over TLS 1.2 or newer.
	ListenerProtocolHTTPS ListenerProtocol = "HTTPS"
)

// ListenerTLS says with what a listener identifies itself.
type ListenerTLS struct {
	// certificateRefs lists Secrets of type kubernetes.io/tls in the gateway's namespace, with the label
	// tierkeeper.io/secret: "true". Of several, each client gets the one for the name that it asks for. A Secret that
	// changes is in force for new connections at once; those that are open go on.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	CertificateRefs []Ref `json:"certificateRefs,omitempty"`
}

// Listener is a port, or a host name at a port, at which the fleet's Envoys accept requests.
//
// +kubebuilder:validation:XValidation:rule="self.protocol == 'HTTPS' ? has(self.tls) : !has(self.tls)",message="tls goes with protocol HTTPS, and only with it"
type Listener struct {
	// name tells the gateway's listeners apart.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// port is the TCP port.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// protocol is what the listener speaks. Listeners that share a port speak the same.
	//
	// +required
	Protocol ListenerProtocol `json:"protocol,omitempty"`

	// hostname is the name that requests must ask for: exactly, or with "*." at the beginning any name below it. Requests for
	// other names are answered 404, or get no connection with HTTPS. Absent means any name.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Hostname string `json:"hostname,omitempty"`

	// tls says with what the listener identifies itself.
	//
	// +optional
	TLS *ListenerTLS `json:"tls,omitempty"`
}
