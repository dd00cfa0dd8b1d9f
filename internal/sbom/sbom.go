// Package sbom writes the software bill of materials (SBOM) of a program, in CycloneDX 1.6.
// It uses the program's build information. Equal programs have equal SBOMs, because an SBOM
// has no time and no serial number.
package sbom

import (
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"
)

// Component is a part of a program, or the program itself.
type Component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Properties []Property `json:"properties,omitempty"`
}

// Property is a name and a value that describe a component.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NPM returns a component for an npm package.
func NPM(name, version string) Component { return library("npm", name, version, "") }

// Write writes the SBOM of the program that info describes. The SBOM lists the standard
// library, the linked modules with their checksums from go.sum, and the given components.
// If info is nil, Write returns an error.
func Write(w io.Writer, info *debug.BuildInfo, more ...Component) error {
	if info == nil {
		return errors.New("the program has no build information")
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
