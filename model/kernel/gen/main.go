// Command gen writes the assembly of package kernel. It is a module of its own
// so that the tools it needs are not among what the product depends on. The
// go:generate lines of package kernel run it. That what it writes is what is
// committed is checked by
//
//	go generate ./model/kernel && git diff --exit-code -- model/kernel
package main

import (
	"flag"
	"log"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	files := map[string]func(){
		"cpu":      cpu,
		"limits":   limits,
		"multiply": multiply,
		"vector":   vector,
	}
	flag.Parse()
	write, ok := files[flag.Arg(0)]
	if !ok {
		log.Fatalf("usage: gen -out FILE -stubs FILE -pkg kernel cpu|limits|multiply|vector")
	}
	ConstraintExpr("amd64,!purego")
	write()
	Generate()
}
