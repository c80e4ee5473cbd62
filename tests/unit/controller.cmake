# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_controller_plan SOURCES unit/controller/plan.c LIBS mcmesh_store)
mcmesh_test(test_controller_services SOURCES unit/controller/services.c
	LIBS mcmesh_controller)
