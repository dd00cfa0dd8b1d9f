// Package gpt2 reads and runs GPT-2 networks in the layout of Hugging Face:
// config.json, model.safetensors, vocab.json and merges.txt in one directory.
//
// Files are not trusted. Every number is checked before it is used, and a file
// that does not fit gives an error that says what is wrong with it.
//
// An [Engine] keeps the promise of [model.Engine] to the bit: the logits of a
// sequence depend on its tokens alone, not on other sequences, the number of
// threads, or how the tokens were split between calls. It computes in float32
// with weights in the format of [Options]. Every sum has a fixed order, so the
// bits are the same on all machines with the same kernels, which model.Info
// names. With int8 weights, all kernels give the same bits.
package gpt2
