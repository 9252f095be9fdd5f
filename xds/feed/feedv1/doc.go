// Package feedv1 decides how the parts of a policy table are written on the way from the operator to the service.
package feedv1
