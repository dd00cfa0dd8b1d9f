package webhook

// These names let tests use the sender with another resolver and other certificates.
var (
	NewTestSender = newSender
	CheckAddress  = Policy.check
	Headers       = Message.headers
)
