package processes

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
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

// deepModel writes a model whose texts take seconds. The model repeats the layers of the
// built-in model and has a longer context.
func deepModel(t *testing.T) (dir string) {
	t.Helper()
	const times, positions = depth, 1024
	dir = t.TempDir()
	files := map[string][]byte{}
	for _, name := range []string{"config.json", "model.safetensors", "vocab.json", "merges.txt"} {
		b, err := os.ReadFile(filepath.Join("../../model/opticks", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	var config map[string]any
	if err := json.Unmarshal(files["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	layers := int(config["n_layer"].(float64))
	config["n_layer"], config["n_ctx"], config["n_positions"] = times*layers, positions, positions
	var err error
	if files["config.json"], err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	tensors := readTensors(t, files["model.safetensors"])
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
	files["model.safetensors"] = writeTensors(t, tensors)
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
