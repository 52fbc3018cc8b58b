// Command licences checks that all modules of a program may be given away with it. Its arguments are go list's: flags and
// packages. It prints how many modules have which licence, and fails for one that is not known or does not fit ours.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// known are words that are in a licence's text and in no other's, in small letters with single spaces.
var known = []struct {
	name, words string
	refused     bool // it would ask for more than a notice, or for the source
}{
	{"Apache-2.0", "apache license version 2.0, january 2004", false},
	{"BSD", "redistribution and use in source and binary forms, with or without modification, are permitted", false},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy", false},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee", false},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee", false},
	{"MPL-2.0", "mozilla public license version 2.0 ", false}, // its files stay its own; ours are not touched
	{"MPL-2.0", "mozilla public license, version 2.0 1. definitions", false},
	{"EPL-2.0 or EDL-1.0", "dual licensed under the eclipse public license 2.0 and the eclipse distribution license", false},
	{"EPL-2.0 or EDL-1.0", "made available under the terms of the eclipse public license v2.0 and eclipse distribution license v1.0", false},
	{"Unlicense", "this is free and unencumbered software released into the public domain", false},
	{"CC0-1.0", "cc0 1.0 universal", false},
	{"LGPL", "gnu lesser general public license version", true},
	{"GPL", "gnu general public license version", true},
	{"AGPL", "gnu affero general public license version", true},
	{"SSPL", "server side public license", true},
	{"BUSL", "business source license", true},
	{"Commons Clause", "commons clause", true},
}

var space = regexp.MustCompile(`[\s*#>]+`)

// licences are those that a text holds, and why it does not fit if it does not.
func licences(text string) (names []string, err error) {
	text = strings.ToLower(space.ReplaceAllString(text, " "))
	for _, l := range known {
		if strings.Contains(text, l.words) {
			names = append(names, l.name)
			if l.refused {
				err = fmt.Errorf("%s is not allowed", l.name)
			}
		}
	}
	if len(names) == 0 {
		err = errors.New("the text of the licence is not known")
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

var fileName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$`)

// ofModule are the licences of the files in the directory.
func ofModule(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, entry := range entries {
		if !entry.IsDir() && fileName.MatchString(entry.Name()) {
			content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				return nil, err
			}
			text.Write(content)
			text.WriteByte('\n')
		}
	}
	if text.Len() == 0 {
		return nil, errors.New("it has no licence")
	}
	return licences(text.String())
}

// run checks the modules of the packages, without our own and the standard library.
func run(out io.Writer, args []string) error {
	const format = `{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}`
	list := exec.Command("go", append([]string{"list", "-deps", "-f", format}, args...)...) //nolint:gosec,noctx // what we are given
	list.Stderr = os.Stderr
	listed, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	modules := make(map[string]string)
	for line := range strings.Lines(string(listed)) {
		if path, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			modules[path] = dir
		}
	}
	if len(modules) == 0 {
		return errors.New("go list names no module")
	}
	counts := make(map[string]int)
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		names, err := ofModule(modules[path])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
			continue
		}
		counts[strings.Join(names, " and ")]++
	}
	fmt.Fprintf(out, "licences of %d modules:", len(modules))
	names := slices.Collect(maps.Keys(counts))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	for _, name := range names {
		fmt.Fprintf(out, " %d %s;", counts[name], name)
	}
	fmt.Fprintln(out)
	return errors.Join(errs...)
}

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}
