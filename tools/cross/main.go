// Command cross checks that our packages hold together on platforms that nobody tests on: names, types, and numbers that do
// not fit where an int has 32 bits. Its arguments are platforms as os/arch. Nothing is compiled, and of others' code no
// function is read, so it takes seconds where building takes minutes; `make dist` builds.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(platforms []string) error {
	root, err := filepath.Abs("..") // of our module; this one is in tools
	if err != nil {
		return err
	}
	var errs []error
	for _, platform := range platforms {
		system, arch, _ := strings.Cut(platform, "/")
		loaded, err := packages.Load(&packages.Config{
			Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
				packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedModule,
			Dir: root,
			Env: append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOFLAGS="),
			ParseFile: func(set *token.FileSet, name string, content []byte) (*ast.File, error) {
				file, err := parser.ParseFile(set, name, content, parser.SkipObjectResolution)
				if file != nil && !strings.HasPrefix(name, root+string(filepath.Separator)) {
					for _, declaration := range file.Decls {
						if function, ok := declaration.(*ast.FuncDecl); ok {
							function.Body = nil
						}
					}
				}
				return file, err
			},
		}, "./...")
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		for _, p := range loaded {
			for _, e := range p.Errors {
				errs = append(errs, fmt.Errorf("%s: %w", platform, e))
			}
		}
	}
	return errors.Join(errs...)
}
