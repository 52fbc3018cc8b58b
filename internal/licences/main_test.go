package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLicences(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
		err  string
	}{
		{"The MIT License\n\nPermission is hereby granted,\n  free of charge, to any person obtaining a copy of", []string{"MIT"}, ""},
		{"Apache License\n   Version 2.0, January 2004\n", []string{"Apache-2.0"}, ""},
		{"> Redistribution and use in source and binary forms, with or without\n> modification, are permitted provided", []string{"BSD"}, ""},
		{"Mozilla Public License Version 2.0\n====\n … GNU General Public License, Version 2.0", []string{"MPL-2.0"}, ""},
		{"GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007", []string{"GPL"}, "GPL is not allowed"},
		{"GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3", []string{"AGPL"}, "AGPL is not allowed"},
		{"Apache License\nVersion 2.0, January 2004\n\"Commons Clause\" License Condition v1.0", []string{"Apache-2.0", "Commons Clause"}, "not allowed"},
		{"All rights reserved.", nil, "not known"},
	} {
		names, err := licences(c.text)
		require.Equal(t, c.want, names)
		if c.err == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.err)
		}
	}
}

func TestModuleWithoutLicence(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README.md"), []byte("MIT"), 0o600))
	_, err := ofModule(dir)
	require.ErrorContains(t, err, "no licence")
}

// All that our own commands are built from. `make licences` has bin/telegraf too.
func TestOurModules(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out, []string{"../../cmd/...", "../../plugins/..."}))
	require.Contains(t, out.String(), "MIT")
}
