package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tensor is one tensor of a safetensors file.
type tensor struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
	data    []byte
}

func readTensors(t *testing.T, file []byte) map[string]tensor {
	t.Helper()
	size := binary.LittleEndian.Uint64(file)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+size], &header); err != nil {
		t.Fatal(err)
	}
	delete(header, "__metadata__")
	tensors := map[string]tensor{}
	for name, raw := range header {
		var x tensor
		if err := json.Unmarshal(raw, &x); err != nil {
			t.Fatal(err)
		}
		x.data = file[8+size:][x.Offsets[0]:x.Offsets[1]]
		tensors[name] = x
	}
	return tensors
}

func writeTensors(t *testing.T, tensors map[string]tensor) []byte {
	t.Helper()
	var data []byte
	for name, x := range tensors {
		x.Offsets = [2]int{len(data), len(data) + len(x.data)}
		tensors[name], data = x, append(data, x.data...)
	}
	header, err := json.Marshal(tensors)
	if err != nil {
		t.Fatal(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(file, header...), data...)
}

// writeModel writes the built-in model to a directory, changed by edit.
func writeModel(t *testing.T, edit func(config map[string]any, tensors map[string]tensor)) (dir string) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(readFile(t, opticks, "config.json"), &config); err != nil {
		t.Fatal(err)
	}
	tensors := readTensors(t, readFile(t, opticks, "model.safetensors"))
	edit(config, tensors)
	changed, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, b := range map[string][]byte{
		"config.json": changed, "model.safetensors": writeTensors(t, tensors),
		"vocab.json": readFile(t, opticks, "vocab.json"), "merges.txt": readFile(t, opticks, "merges.txt"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// deepModel writes a model whose texts take seconds: the built-in one, with its
// layers many times over and room for longer texts.
func deepModel(t *testing.T) string {
	t.Helper()
	const times, positions = depth, 1024
	return writeModel(t, func(config map[string]any, tensors map[string]tensor) {
		layers := int(config["n_layer"].(float64))
		config["n_layer"], config["n_ctx"], config["n_positions"] = times*layers, positions, positions
		for name, x := range tensors {
			if strings.HasSuffix(name, "wpe.weight") {
				x.data = bytes.Repeat(x.data, positions/x.Shape[0])
				x.Shape = []int{positions, x.Shape[1]}
				tensors[name] = x
			}
			prefix, rest, _ := strings.Cut(name, "h.")
			number, rest, _ := strings.Cut(rest, ".")
			var layer int
			if _, err := fmt.Sscanf(number, "%d", &layer); err != nil || layer >= layers {
				continue
			}
			for i := range times {
				tensors[fmt.Sprintf("%sh.%d.%s", prefix, i*layers+layer, rest)] = x
			}
		}
	})
}

// brokenModel writes the built-in model with weights so large that no sum of them
// is a number: it loads, and cannot be run.
func brokenModel(t *testing.T) string {
	t.Helper()
	large := binary.LittleEndian.AppendUint32(nil, math.Float32bits(math.MaxFloat32))
	return writeModel(t, func(_ map[string]any, tensors map[string]tensor) {
		for name, x := range tensors {
			n := 1
			for _, side := range x.Shape {
				n *= side
			}
			x.DType, x.data = "F32", bytes.Repeat(large, n)
			tensors[name] = x
		}
	})
}
