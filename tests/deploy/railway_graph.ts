// Prints what .railway/railway.ts describes, as JSON. The check puts both into one folder.

import { createRailwayContext, project } from "railway/iac";
import program from "./railway.ts";

const context = createRailwayContext({ environment: "production" });
console.log(JSON.stringify(await program(context, project)));
