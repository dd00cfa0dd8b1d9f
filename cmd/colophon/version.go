package main

import (
	"fmt"
	"runtime/debug"

	"colophon/api"
	"colophon/internal/sbom"
	"colophon/openapi"
)

type openAPICmd struct{}

func (openAPICmd) Run(t *terminal) error {
	yaml, err := api.Description()
	if err != nil {
		return err
	}
	_, err = t.out.Write(yaml)
	return err
}

type versionCmd struct {
	SBOM bool `name:"sbom" help:"Print the bill of materials in CycloneDX instead."`
}

func (c versionCmd) Run(t *terminal) error {
	if c.SBOM {
		info, _ := debug.ReadBuildInfo()
		return sbom.Write(t.out, info, sbom.NPM(openapi.Vendored()))
	}
	version, revision := "unknown", "unknown revision"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	_, err := fmt.Fprintf(t.out, "colophon %s (%s)\n", version, revision)
	return err
}
