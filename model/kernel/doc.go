// Package kernel implements the inner loops of a transformer over float32:
// products with packed matrices, layer norm, GELU and softmax.
//
// Every result depends on its inputs alone. Each element of a product is one
// chain of additions in the order of the inputs, for any number of rows that
// are computed together. A [Pool] splits work over results, never over the
// terms of a sum. So results have the same bits for any batch size and any
// number of threads.
//
// Every loop exists twice: as assembly for amd64 with AVX2, FMA and F16C, and
// as portable Go. The build tag purego selects portable Go on amd64 as well.
// Both run the same operations in the same order and give the same bits. There
// is one exception: the assembly for F32 and F16 matrices fuses each product
// with its addition. [Fingerprint] tells the two apart. The products exist a third time
// for AVX-512 with VNNI; that version always gives the bits of the AVX2 one.
// The package uses no function of package math whose last bit depends on the
// platform.
//
// The functions are safe for concurrent use on different results, and they do
// not allocate. Constructors do, and [Measure] starts goroutines.
package kernel

//go:generate go -C gen run . -out ../cpu_amd64.s -stubs ../cpu_amd64.go -pkg kernel cpu
//go:generate go -C gen run . -out ../multiply_amd64.s -stubs ../multiply_amd64.go -pkg kernel multiply
//go:generate go -C gen run . -out ../vector_amd64.s -stubs ../vector_amd64.go -pkg kernel vector

// Fingerprint names the arithmetic used with matrices of format f. Two programs
// with the same fingerprint compute the same bits from the same weights, so it
// must change whenever a bit may.
func Fingerprint(f Format) string {
	if useAVX2 && f != Int8 {
		return "avx2-fma/1"
	}
	return "portable/3"
}
