package contract

// thorough is of how many requests a run has to have tried everything.
const thorough = 20_000

// coverage counts what was tried: what was done to which operation, and which of
// its parts it was done to.
type coverage map[string]int

func pair(op *operation, what string) string { return op.String() + ": " + what }

func (c coverage) add(r *request) {
	c[pair(r.op, r.kind)]++
	if r.part != "" {
		c[pair(r.op, r.part)]++
	}
}

// missing returns how many pairs there are, and those that were never tried: what
// can be done to an operation, and the parts of it that the document names.
func (c coverage) missing(g *generator) (apply int, untried []string) {
	want := func(op *operation, what string) {
		if apply++; c[pair(op, what)] == 0 {
			untried = append(untried, pair(op, what))
		}
	}
	for _, op := range g.doc.operations {
		want(op, "valid")
		for _, p := range op.Parameters {
			want(op, p.In+"."+p.Name)
		}
		if op.RequestBody != nil {
			for _, media := range sortedKeys(op.RequestBody.Content) {
				for _, name := range sortedKeys(g.doc.resolve(op.RequestBody.Content[media].Schema).Properties) {
					want(op, "body."+name)
				}
			}
		}
		for _, kind := range sortedKeys(mutations) {
			for range 30 {
				if mutations[kind](g, g.compose(op)) {
					want(op, kind)
					break
				}
			}
		}
	}
	return apply, untried
}
