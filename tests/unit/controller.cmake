# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_controller_plan SOURCES unit/controller/plan.c LIBS mcmesh_store)
mcmesh_test(test_controller_services SOURCES unit/controller/services.c unit/controller/harness.c
	LIBS mcmesh_controller)
mcmesh_test(test_controller_operators
	SOURCES unit/controller/operators.c unit/controller/harness.c LIBS mcmesh_controller)
