package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"colophon/model/gomlx"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// maxRoundingLoss is the limit for the increase of the loss, in nats per token, when
// the weights are rounded to half precision. With a larger increase, the weights are
// stored as float32.
const maxRoundingLoss = 0.002

// export writes the files of the model into a directory. It writes the held-out text
// into testdata of that directory, for the test of the model card.
func export(dir string, trainer *gomlx.Trainer, bpe *encoding, test *heldOut, sections []string) error {
	weights := trainer.Weights()
	exact, err := test.loss(trainer, weights)
	if err != nil {
		return err
	}
	halves := make([][]float32, len(weights))
	for i, w := range weights {
		for _, x := range w {
			halves[i] = append(halves[i], kernel.Float16frombits(kernel.Float16bits(x)))
		}
	}
	rounded, err := test.loss(trainer, halves)
	if err != nil {
		return err
	}
	dtype := "F16"
	if !(rounded-exact < maxRoundingLoss) {
		dtype = "F32"
	}
	fmt.Printf("step %d: held-out %.4f nats/token, %.4f bits/byte; in half precision %.4f and %.4f; written as %s\n",
		trainer.Steps(), exact, test.bitsPerByte(exact), rounded, test.bitsPerByte(rounded), dtype)

	vocab, merges, err := bpe.files()
	if err != nil {
		return fmt.Errorf("write vocab.json: %w", err)
	}
	shape, err := configJSON(bpe)
	if err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	tensors, err := safetensors(config, weights, dtype)
	if err != nil {
		return fmt.Errorf("write model.safetensors: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "testdata"), 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"config.json": shape, "vocab.json": vocab, "merges.txt": merges, "model.safetensors": tensors,
		filepath.Join("testdata", "heldout.txt"): []byte(strings.Join(sections, "\f")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// configJSON returns the contents of config.json.
func configJSON(bpe *encoding) ([]byte, error) {
	b, err := json.MarshalIndent(map[string]any{
		"architectures": []string{"GPT2LMHeadModel"}, "model_type": "gpt2", "activation_function": "gelu_new",
		"vocab_size": config.Vocab, "n_positions": config.Context, "n_ctx": config.Context, "n_embd": config.Embd,
		"n_layer": config.Layers, "n_head": config.Heads, "n_inner": nil, "layer_norm_epsilon": 1e-5,
		"embd_pdrop": recipe.Dropout, "resid_pdrop": recipe.Dropout, "attn_pdrop": 0.0,
		"bos_token_id": bpe.eot(), "eos_token_id": bpe.eot(), "tie_word_embeddings": true,
	}, "", "  ")
	return append(b, '\n'), err
}

// safetensors returns a safetensors file of weights in the order of config.Tensors. The
// weights are stored as dtype, which is "F32" or "F16".
func safetensors(config gpt2.Config, weights [][]float32, dtype string) ([]byte, error) {
	var tensors []gpt2.Tensor
	for name, shape := range config.Tensors() {
		t, err := gpt2.NewTensor(name, dtype, shape, weights[0])
		if err != nil {
			return nil, err
		}
		tensors, weights = append(tensors, t), weights[1:]
	}
	var file bytes.Buffer
	err := gpt2.WriteSafetensors(&file, tensors)
	return file.Bytes(), err
}
