// Package kernel implements the inner loops of a transformer over float32:
// products with packed matrices, layer norm, GELU and softmax.
//
// Every result depends only on its own inputs. Each element of a product is one sum,
// whose terms are added in the order of the inputs. This order does not depend on the
// number of rows that are computed together. A [Pool] divides the results among
// threads, but never divides the terms of a sum. So results have the same bits for any
// batch size and any number of threads.
//
// Every loop has two versions: assembly for amd64 with AVX2, FMA and F16C, and portable
// Go. The build tag purego selects portable Go on amd64 as well. Both versions run the
// same operations in the same order and give the same bits. There is one exception. The
// assembly for F32 and F16 matrices fuses each product with its addition. [Fingerprint]
// distinguishes the two versions. The products also have a version for AVX-512 with
// VNNI, which always gives the bits of the AVX2 version. The package uses no function
// of package math whose last bit depends on the platform.
//
// The functions are safe for concurrent use if they write different results. They do
// not allocate memory, except for the constructors. [Measure] starts goroutines.
package kernel

//go:generate go -C gen run . -out ../cpu_amd64.s -stubs ../cpu_amd64.go -pkg kernel cpu
//go:generate go -C gen run . -out ../multiply_amd64.s -stubs ../multiply_amd64.go -pkg kernel multiply
//go:generate go -C gen run . -out ../vector_amd64.s -stubs ../vector_amd64.go -pkg kernel vector

// Fingerprint names the arithmetic used with matrices of format f. Two programs with
// the same fingerprint compute the same bits from the same weights. So a change that
// may change any bit must also change the fingerprint.
func Fingerprint(f Format) string {
	if useAVX2 && f != Int8 {
		return "avx2-fma/1"
	}
	return "portable/3"
}
