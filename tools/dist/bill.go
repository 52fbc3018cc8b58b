package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"golang.org/x/mod/module"
)

// writeBill writes a CycloneDX bill of materials: each binary with its sum, and the modules and the Go that are in it.
func (s set) writeBill(path string, m modules) error {
	purl := func(v module.Version) string { return "pkg:golang/" + v.Path + "@" + v.Version }
	std := module.Version{Path: "std", Version: strings.TrimPrefix(m.goVersion, "go")}
	whole := "pkg:golang/" + ours + "@v" + s.version

	var components []cyclonedx.Component
	var dependencies []cyclonedx.Dependency
	var names []string
	identity := sha256.New()
	for _, path := range s.binaries {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		identity.Write(sum[:])
		name := filepath.Base(path)
		names = append(names, name)
		components = append(components, cyclonedx.Component{
			BOMRef:  name,
			Type:    cyclonedx.ComponentTypeApplication,
			Name:    name,
			Version: s.version,
			Hashes:  &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		})
		needs := []string{purl(std)}
		for _, v := range m.of[path] {
			needs = append(needs, purl(v))
		}
		dependencies = append(dependencies, cyclonedx.Dependency{Ref: name, Dependencies: &needs})
	}
	dependencies = append(dependencies, cyclonedx.Dependency{Ref: whole, Dependencies: &names})
	for _, v := range append([]module.Version{std}, m.all...) {
		components = append(components, cyclonedx.Component{
			BOMRef:     purl(v),
			Type:       cyclonedx.ComponentTypeLibrary,
			Name:       v.Path,
			Version:    v.Version,
			PackageURL: purl(v),
		})
	}

	bom := cyclonedx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid(identity.Sum(nil))
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: s.time.Format(time.RFC3339),
		Component: &cyclonedx.Component{
			BOMRef:     whole,
			Type:       cyclonedx.ComponentTypeApplication,
			Name:       s.name,
			Version:    s.version,
			PackageURL: whole,
			Licenses:   &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "MIT"}}},
		},
	}
	bom.Components = &components
	bom.Dependencies = &dependencies

	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = cyclonedx.NewBOMEncoder(f, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// uuid is one of version 8, whose bits are anyone's to give: here the content's.
func uuid(sum []byte) string {
	b := append([]byte(nil), sum[:16]...)
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
