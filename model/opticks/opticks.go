// Package opticks embeds a small model, a GPT-2 of 2.2 million weights that was trained
// on Newton's Opticks alone. With this model, the service is complete without a
// download. The model is a demonstration, and its texts are not reliable. MODEL_CARD.md
// describes the training and the quality of the model. The command in train makes the
// model again.
package opticks

import (
	"embed"
	"io/fs"
)

//go:embed config.json model.safetensors vocab.json merges.txt
var files embed.FS

// Name is the name of the model.
const Name = "opticks"

// Files returns the files of the model in the layout of Hugging Face: config.json,
// model.safetensors, vocab.json and merges.txt.
func Files() fs.FS { return files }
