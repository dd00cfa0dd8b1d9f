// Package gpt2 reads and runs GPT-2 networks in the layout of Hugging Face:
// config.json, model.safetensors, vocab.json and merges.txt in one directory.
//
// Nothing that is read is trusted: every number is checked before it is used,
// and a file that does not fit gives an error that says what is wrong with it.
//
// An [Engine] computes in float32, with weights kept as [Options] say, and keeps
// the promise of [model.Engine] to the bit: the logits of a sequence are the
// same alone or beside others, for any number of threads and however its tokens
// were split between calls. The order in which every sum is added up is fixed,
// so they are also the same on every machine that runs the same kernels;
// model.Info names those. With int8 weights, all kernels are the same.
package gpt2
