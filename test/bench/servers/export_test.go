package servers

// PeerConfig is for tests.
func (s Setup) PeerConfig() string { return s.peerConfig() }
