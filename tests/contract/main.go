// Prints the CRI v1 contract as the published module has it: one line a fact, sorted.
//
// tests/cri/contract.rs builds the same lines from our proto/api.proto and compares. After a change of the module's
// version: go run . > cri-vX.Y.Z.txt
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	file := protodesc.ToFileDescriptorProto((&cri.VersionRequest{}).ProtoReflect().Descriptor().ParentFile())
	l := listing{"." + file.GetPackage(), nil}
	l.add("package %s %s", file.GetPackage(), file.GetSyntax())
	for _, m := range file.GetMessageType() {
		l.message(l.scope, m)
	}
	for _, e := range file.GetEnumType() {
		l.enum(l.scope, e)
	}
	for _, s := range file.GetService() {
		for _, m := range s.GetMethod() {
			l.add("rpc %s.%s.%s %s%s -> %s%s", l.scope, s.GetName(), m.GetName(),
				stream(m.GetClientStreaming()), m.GetInputType(), stream(m.GetServerStreaming()), m.GetOutputType())
		}
	}
	slices.Sort(l.lines)
	if _, err := fmt.Println(strings.Join(l.lines, "\n")); err != nil {
		os.Exit(1)
	}
}

type listing struct {
	scope string
	lines []string
}

func (l *listing) add(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *listing) message(scope string, m *descriptorpb.DescriptorProto) {
	name := scope + "." + m.GetName()
	l.add("message %s%s", name, flag(m.GetOptions().GetMapEntry(), " map"))
	for _, f := range m.GetField() {
		kind := strings.ToLower(strings.TrimPrefix(f.GetType().String(), "TYPE_"))
		label := strings.ToLower(strings.TrimPrefix(f.GetLabel().String(), "LABEL_"))
		l.add("field %s %d %s %s %s%s%s%s%s", name, f.GetNumber(), f.GetName(), label, kind,
			flag(f.GetTypeName() != "", " "+f.GetTypeName()),
			flag(f.GetOptions().GetDeprecated(), " deprecated"),
			flag(f.GetProto3Optional(), " presence"),
			flag(f.OneofIndex != nil, " oneof"))
	}
	for _, nested := range m.GetNestedType() {
		l.message(name, nested)
	}
	for _, e := range m.GetEnumType() {
		l.enum(name, e)
	}
}

func (l *listing) enum(scope string, e *descriptorpb.EnumDescriptorProto) {
	for _, v := range e.GetValue() {
		l.add("enum %s.%s %d %s", scope, e.GetName(), v.GetNumber(), v.GetName())
	}
}

func stream(yes bool) string { return flag(yes, "stream ") }

func flag(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}
