package feed

// What the wire says, for tests.
const (
	TypeURL = typeURL
	Method  = "/" + service + "/" + method
)

// Encode, Decode and the names of resources are what client and server agree on.
var (
	Encode       = encode
	Decode       = decode
	ResourceName = resourceName
	ParseName    = parseName
)

// VersionOf is the version by which resources of the content go on the wire.
func VersionOf(content []byte) string { return versionOf(content).String() }

// LogLength is how many changes the server remembers.
func LogLength(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.history.log)
}
