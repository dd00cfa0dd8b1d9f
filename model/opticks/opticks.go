// Package opticks embeds a small model: a GPT-2 of 2.2 million weights, trained on
// Newton's Opticks alone. It makes the service complete without a download. It is a
// demonstration; its texts are not reliable. MODEL_CARD.md says how it was made and how
// well it does; the command in train makes it again.
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
