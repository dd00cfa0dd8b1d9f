// Package sbom writes what a program was made of as CycloneDX 1.6, as far as the
// program knows. Equal programs have equal bills: a bill has no time and no serial
// number.
package sbom

import (
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"
)

// Component is a part of a program, or the program.
type Component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Properties []Property `json:"properties,omitempty"`
}

// Property is a name and a value of a component.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NPM returns a package of npm.
func NPM(name, version string) Component { return library("npm", name, version, "") }

// Write writes the modules that the linker put into the program, with the checksums
// that go.sum has for them, the standard library, and what else is in it. Without info
// it returns an error.
func Write(w io.Writer, info *debug.BuildInfo, more ...Component) error {
	if info == nil {
		return errors.New("this program does not know what it was built from")
	}
	var bill struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Version  int    `json:"version"`
		Metadata struct {
			Component Component `json:"component"`
		} `json:"metadata"`
		Components []Component `json:"components"`
	}
	bill.Format, bill.Spec, bill.Version = "CycloneDX", "1.6", 1
	program := Component{Type: "application", Name: info.Main.Path, Version: info.Main.Version}
	for _, s := range info.Settings {
		program.Properties = append(program.Properties, Property{"go:build:" + s.Key, s.Value})
	}
	bill.Metadata.Component = program
	bill.Components = append(bill.Components, library("golang", "std", info.GoVersion, ""))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		bill.Components = append(bill.Components, library("golang", m.Path, m.Version, m.Sum))
	}
	bill.Components = append(bill.Components, more...)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(bill)
}

func library(kind, name, version, sum string) Component {
	c := Component{Type: "library", Name: name, Version: version, PURL: "pkg:" + kind + "/" + name + "@" + version}
	if sum != "" {
		c.Properties = []Property{{"go:sum", sum}}
	}
	return c
}
