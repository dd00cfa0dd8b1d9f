// Package opticks holds the small model that ships inside the binary: a GPT-2
// of 2.2 million weights that knows nothing but Newton's Opticks. It makes the
// service complete without a download; it is a demonstration, not a model to
// rely on. MODEL_CARD.md says how it was made and how well it does; the command
// in train makes it again.
package opticks

import (
	"embed"
	"io/fs"
)

//go:embed config.json model.safetensors vocab.json merges.txt
var files embed.FS

// Name is what people call the model.
const Name = "opticks"

// Files returns the model in the layout of Hugging Face: config.json,
// model.safetensors, vocab.json and merges.txt.
func Files() fs.FS { return files }
