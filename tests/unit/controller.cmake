# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_controller_plan SOURCES unit/test_controller_plan.c LIBS mcmesh_store)
mcmesh_test(test_controller_services SOURCES unit/test_controller_services.c
	LIBS mcmesh_controller)
