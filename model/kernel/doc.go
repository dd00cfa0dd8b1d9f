// Package kernel has the inner loops of a transformer: products with packed
// matrices, layer norm, GELU and softmax, over float32.
//
// Every result is a function of its inputs alone. Each element of a product is
// one chain of additions in the order of the inputs, whatever the number of
// rows computed together, and a [Pool] splits work over results, never over
// the terms of a sum. No multiplication is fused with an addition and no
// function of package math whose last bit depends on the platform is used, so
// the bits are the same on every architecture; [Fingerprint] names them.
//
// The functions are safe for concurrent use on different results, and none of
// them allocates.
package kernel

// Fingerprint names the arithmetic: two programs with the same fingerprint
// compute the same bits from the same weights. It changes whenever a bit may.
func Fingerprint() string { return "portable/1" }
