package main

import (
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"

	"colophon/openapi"
)

// bom is a bill of materials: CycloneDX 1.6, as far as a program knows itself.
// It has no time and no serial number, so that equal programs have equal bills.
type bom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   bomMetadata `json:"metadata"`
	Components []component `json:"components"`
}

type bomMetadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// writeBOM writes what the program was made of: the modules that the linker put
// into it, with the checksums that go.sum has for them, the standard library, and
// the vendored files of the documentation.
func writeBOM(w io.Writer, info *debug.BuildInfo) error {
	if info == nil {
		return errors.New("this program does not know what it was built from")
	}
	b := bom{Format: "CycloneDX", Spec: "1.6", Version: 1}
	b.Metadata.Component = component{Type: "application", Name: info.Main.Path, Version: info.Main.Version}
	for _, s := range info.Settings {
		b.Metadata.Component.Properties = append(b.Metadata.Component.Properties, property{"go:build:" + s.Key, s.Value})
	}
	add := func(name, version, sum string) {
		c := component{Type: "library", Name: name, Version: version, PURL: "pkg:golang/" + name + "@" + version}
		if sum != "" {
			c.Properties = []property{{"go:sum", sum}}
		}
		b.Components = append(b.Components, c)
	}
	add("std", info.GoVersion, "")
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		add(m.Path, m.Version, m.Sum)
	}
	name, version := openapi.Vendored()
	b.Components = append(b.Components, component{Type: "library", Name: name, Version: version, PURL: "pkg:npm/" + name + "@" + version})
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(b)
}
