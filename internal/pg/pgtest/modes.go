package pgtest

// QueryModes returns the values of default_query_exec_mode in a connection URL, except the
// default. A mode decides how pgx sends a statement and its parameters.
func QueryModes() []string {
	return []string{"cache_describe", "describe_exec", "exec", "simple_protocol"}
}
