// Package kernel has the inner loops of a transformer: products with packed
// matrices, layer norm, GELU and softmax, over float32.
//
// Every result is a function of its inputs alone. Each element of a product is
// one chain of additions in the order of the inputs, whatever the number of
// rows computed together, and a [Pool] splits work over results, never over
// the terms of a sum.
//
// There are two versions of every loop: assembly for amd64 with AVX2, FMA and
// F16C, and portable Go, which also serves amd64 when the program is built with
// the tag purego. Both do the same operations in the same order and give the
// same bits, with one exception: the assembly for matrices of float32 and of
// halves fuses each product with its addition. [Fingerprint] tells the two
// apart. The products have a third version, for processors with AVX-512 and its
// VNNI, which does the same in fewer instructions and gives the bits of the one
// for AVX2 always. No function of package math whose last bit depends on the
// platform is used.
//
// The functions are safe for concurrent use on different results, and none of
// them allocates.
package kernel

//go:generate go -C gen run . -out ../cpu_amd64.s -stubs ../cpu_amd64.go -pkg kernel cpu
//go:generate go -C gen run . -out ../multiply_amd64.s -stubs ../multiply_amd64.go -pkg kernel multiply
//go:generate go -C gen run . -out ../vector_amd64.s -stubs ../vector_amd64.go -pkg kernel vector

// Fingerprint names the arithmetic with matrices of a format: two programs with
// the same fingerprint compute the same bits from the same weights. It changes
// whenever a bit may.
func Fingerprint(f Format) string {
	if accelerated && f != Int8 {
		return "avx2-fma/1"
	}
	return "portable/3"
}
