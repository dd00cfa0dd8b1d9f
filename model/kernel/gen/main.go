// Command gen writes the assembly of package kernel with avo. The go:generate lines of
// package kernel run it. It is a separate module, so the product does not depend on
// avo. The following command checks that the committed files are current:
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
