// Package crd holds the CustomResourceDefinitions, which decide what an object of each kind may look like. They are
// generated from the types in api/v1alpha1 and embedded here, so that whoever reads manifests from files holds them
// against the same schema and rules as an API server does.
package crd

import "embed"

// Files holds one YAML file for each kind.
//
//go:embed *.yaml
var Files embed.FS
