package contract

// coverage counts the tries of each mutation on each operation, and the mutations of each
// part of an operation.
type coverage map[string]int

func pair(op *operation, what string) string { return op.String() + ": " + what }

func (c coverage) add(r *request) {
	c[pair(r.op, r.kind)]++
	if r.part != "" {
		c[pair(r.op, r.part)]++
	}
}

// missing returns the number of all pairs to try and the list of those that were never
// tried. A pair is an operation together with a mutation that applies to the operation,
// or with a part that the document names.
func (c coverage) missing(g *generator) (all int, untried []string) {
	want := func(op *operation, what string) {
		if all++; c[pair(op, what)] == 0 {
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
	return all, untried
}
