package catalog

import (
	"io"
	"io/fs"
	"regexp"
	"strings"

	"colophon/model/gpt2"
)

// A Description is what the files of a model say about it.
type Description struct {
	Size    int64  // in bytes, of all files that are read
	Types   string // types of the weights, such as F32 or F16+F32
	Context int    // in tokens
	Licence string // name of the licence in the model card; empty if there is none
}

// Describe reads the sizes and headers of a model's files.
func Describe(files fs.FS) (Description, error) {
	var d Description
	for _, name := range Files(files) {
		info, err := fs.Stat(files, name)
		if err != nil {
			return d, err
		}
		d.Size += info.Size()
	}
	checkpoint, err := gpt2.ReadCheckpoint(files)
	if err != nil {
		return d, err
	}
	defer checkpoint.Close()
	d.Types = strings.Join(checkpoint.DTypes(), "+")
	d.Context = checkpoint.Config.Context
	d.Licence = licence(files)
	return d, nil
}

// licenceLine matches the member license in the front matter of a model card. Its value
// is an identifier such as mit or apache-2.0.
var licenceLine = regexp.MustCompile(`^license:\s*["']?([A-Za-z0-9][A-Za-z0-9.+-]{0,39})["']?\s*$`)

// licence returns the name of the licence in README.md, or "" if the file does not say it.
func licence(files fs.FS) string {
	f, err := files.Open("README.md")
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 64 << 10 // the front matter is at the start
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return parseLicence(string(b))
}

// parseLicence reads the front matter of a model card, which is between two lines of three
// hyphens.
func parseLicence(card string) string {
	number := 0
	for line := range strings.Lines(card) {
		line = strings.TrimRight(line, " \t\r\n")
		if number++; number == 1 {
			if strings.TrimPrefix(line, "\ufeff") != "---" {
				return ""
			}
			continue
		}
		if line == "---" {
			return ""
		}
		if m := licenceLine.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return ""
}
