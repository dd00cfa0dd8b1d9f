// Package gpt2 reads and runs GPT-2 networks in the layout of Hugging Face:
// config.json, model.safetensors, vocab.json and merges.txt in one directory.
//
// Files are not trusted. Every number is checked before it is used. The error for an
// invalid file says what is wrong with the file.
//
// An [Engine] keeps the promise of [model.Engine]: the bits of the logits depend only
// on the tokens of the sequence. Other sequences, the number of threads, the split
// of the tokens between calls and guesses make no difference. The engine computes in float32 with
// weights in the format of [Options]. It adds the terms of every sum in a fixed order.
// So the bits are the same on all machines with the same kernels, which model.Info
// names. With int8 weights, all kernels give the same bits.
package gpt2
