// Command lint reads files with the code of the programs that they are written for:
//
//	lint compose FILE PROFILE…   loads a compose file with the loader of Compose v2, and prints it as JSON
//	lint dockerfile FILE         parses a Dockerfile with BuildKit, prints the warnings, and fails if there are any
//	lint kubernetes <MANIFESTS   reads Kubernetes objects with their own types; an unknown field is an error
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	machinery "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "compose":
		return compose(args[1], args[2:])
	case len(args) == 2 && args[0] == "dockerfile":
		return dockerfile(args[1])
	case len(args) == 1 && args[0] == "kubernetes":
		return kubernetes(os.Stdin)
	default:
		return errors.New("usage: lint compose FILE PROFILE…, lint dockerfile FILE, or lint kubernetes <MANIFESTS")
	}
}

func compose(file string, profiles []string) error {
	options, err := cli.NewProjectOptions([]string{file},
		cli.WithOsEnv, cli.WithDotEnv, cli.WithProfiles(profiles), cli.WithResolvedPaths(false))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(text, '\n'))
	return err
}

func dockerfile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return err
	}
	var warnings []error
	for _, warning := range parsed.Warnings {
		warnings = append(warnings, errors.New(warning.Short))
	}
	found := func(rule, description, url, message string, at []parser.Range) {
		warnings = append(warnings, fmt.Errorf("%s: %s", rule, message))
	}
	stages, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{Warn: found}))
	if err != nil {
		return err
	}
	for _, stage := range stages {
		fmt.Printf("%s: %d instructions\n", stage.BaseName, len(stage.Commands))
	}
	return errors.Join(warnings...)
}

func kubernetes(manifests io.Reader) error {
	documents := machinery.NewYAMLReader(bufio.NewReader(manifests))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := object(document); err != nil {
			return err
		}
	}
}

func object(document []byte) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if len(bytes.TrimSpace(document)) == 0 {
		return nil
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	kind := head.APIVersion + " " + head.Kind
	into, known := map[string]any{
		"apps/v1 Deployment":                  &apps.Deployment{},
		"monitoring.coreos.com/v1 PodMonitor": &monitoring.PodMonitor{},
		"v1 ConfigMap":                        &core.ConfigMap{},
		"v1 Service":                          &core.Service{},
	}[kind]
	if !known {
		return fmt.Errorf("%s %s: unsupported kind", kind, head.Metadata.Name)
	}
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		return fmt.Errorf("%s %s: %w", kind, head.Metadata.Name, err)
	}
	return json.NewEncoder(os.Stdout).Encode(into)
}
