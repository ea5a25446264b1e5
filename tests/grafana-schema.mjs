// Writes a dashboard as TypeScript and checks it with the compiler: see `grafana-schema`.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, resolve } from 'node:path';

const [folder, ...files] = process.argv.slice(2);
const ts = createRequire(resolve(folder, 'package.json'))('typescript');
const made = resolve(folder, 'made');

// The types of the options and `custom` fields of each panel type. In `custom` of a table, the cell options are a union of types.
const panels = {
  stat: { file: 'stat', options: 'Options' },
  timeseries: { file: 'timeseries', options: 'Options', custom: 'FieldConfig' },
  table: { file: 'table', options: 'Options', custom: 'FieldConfig' },
  bargauge: { file: 'bargauge', options: 'Options' },
  'state-timeline': { file: 'statetimeline', options: 'Options', custom: 'FieldConfig' },
  logs: { file: 'logs', options: 'Options' },
  traces: {},
};

// The types contain enums, which the compiler does not accept as strings; in JSON they are strings with the same values.
const head = `
import type * as schema from '@grafana/schema';
type Words<T> = T extends string ? \`\${T}\` : T extends number ? (\`\${T}\` extends \`\${infer N extends number}\` ? N : never) : T;
type Json<T> = T extends string | number ? Words<T> : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Known<K extends string> = { [P in K]?: unknown };
type Source = { type: string; uid: string };
// Keys of a query beyond DataQuery belong to its data source.
type Query = Json<schema.DataQuery> & (
  | Known<'expr' | 'legendFormat' | 'instant' | 'range' | 'format' | 'exemplar' | 'editorMode' | 'maxLines'>
  | Known<'query' | 'tableType' | 'limit' | 'spss'>);
type PanelOf<T extends string, O, C> = Omit<Json<schema.Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'> & {
  type: T; datasource: Source; targets: Query[]; options: Partial<O>;
  fieldConfig: { defaults: Omit<Json<schema.FieldConfig>, 'custom'> & { custom?: Partial<C> }; overrides: Json<schema.FieldConfigSource['overrides']> } };
type Row = Omit<Json<schema.RowPanel>, 'panels'> & { panels: AnyPanel[] };
// Prometheus annotations have keys in addition to the common ones.
type Annotation = Omit<Json<schema.AnnotationQuery>, 'target'> & Known<'expr' | 'step' | 'useValueForTime' | 'titleFormat' | 'textFormat' | 'tagKeys'>;
type Board = Omit<Json<schema.Dashboard>, 'panels' | 'annotations'> & { panels: (AnyPanel | Row)[]; annotations: { list: Annotation[] } };
`;

function types() {
  const path = (file) => `@grafana/schema/dist/types/raw/composable/${file}/panelcfg/x/types.gen`;
  const used = Object.entries(panels).filter(([, panel]) => panel.file);
  const imports = used.map(([, { file }]) => `import type * as ${file} from '${path(file)}';`);
  const of = Object.entries(panels).map(([type, { file, options, custom }]) => {
    const o = file ? `Json<${file}.${options}>` : 'Record<string, unknown>';
    const c = custom ? `Json<${file}.${custom}>` : 'Record<string, never>';
    return `PanelOf<'${type}', ${o}, ${c}>`;
  });
  return `${imports.join('\n')}${head}type AnyPanel = ${of.join(' | ')};\n`;
}

// Returns the source text of a dashboard. Each panel has a name, so that an error refers to that panel only.
function source(board) {
  const all = [...board.panels, ...board.panels.flatMap((panel) => panel.panels ?? [])];
  const own = all.filter((panel) => panel.type !== 'row').map((panel) => {
    const type = panels[panel.type] ? `Extract<AnyPanel, { type: '${panel.type}' }>` : 'AnyPanel';
    return `// ${panel.title}\nexport const panel${panel.id}: ${type} = ${JSON.stringify(panel)};`;
  });
  return `${types()}${own.join('\n')}\nexport const board: Board = ${JSON.stringify(board)};\n`;
}

function complaints(name, board) {
  const file = resolve(made, `${name}.ts`);
  writeFileSync(file, source(board));
  const options = {
    strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022,
    // Resolves the files that the package does not export.
    module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Node10, ignoreDeprecations: '5.0',
    baseUrl: resolve(folder), paths: { '@grafana/schema': ['node_modules/@grafana/schema/dist/types/index'], '@grafana/schema/*': ['node_modules/@grafana/schema/*'] },
  };
  const program = ts.createProgram([file], options);
  return ts.getPreEmitDiagnostics(program).map((found) => {
    const line = found.file?.getLineAndCharacterOfPosition(found.start ?? 0).line ?? 0;
    const above = found.file?.text.split('\n')[line - 1] ?? '';
    const title = above.startsWith('// ') ? above.slice(3) : 'the dashboard';
    return `${title}: ${ts.flattenDiagnosticMessageText(found.messageText, ' ').slice(0, 400)}`;
  });
}

const find = (board, type) => board.panels.find((panel) => panel.type === type);
const faults = {
  'a dashboard has an unknown key': (board) => { board.colour = 'red'; },
  'a title is a number': (board) => { board.title = 7; },
  'a panel has an unknown key': (board) => { find(board, 'stat').queries = []; },
  'a position is a string': (board) => { find(board, 'stat').gridPos.w = '4'; },
  'a stat has an unknown graph mode': (board) => { find(board, 'stat').options.graphMode = 'pie'; },
  'a legend is misspelt': (board) => { find(board, 'timeseries').options.legend.placment = 'bottom'; },
  'a line has an unknown style': (board) => { find(board, 'timeseries').fieldConfig.defaults.custom.drawStyle = 'dots'; },
  'a threshold lacks its colour': (board) => { delete find(board, 'stat').fieldConfig.defaults.thresholds.steps[0].color; },
  'a variable has an unknown refresh mode': (board) => { board.templating.list[3].refresh = 'often'; },
  'a query has an unknown key': (board) => { find(board, 'stat').targets[0].expression = 'up'; },
  'a panel has an unknown type': (board) => { find(board, 'stat').type = 'clock'; },
};

rmSync(made, { recursive: true, force: true });
mkdirSync(made, { recursive: true });
let passed = 0;
let failed = 0;
for (const file of files) {
  const found = complaints(basename(file, '.json'), JSON.parse(readFileSync(file, 'utf8')));
  found.forEach((one) => console.error(`${file}: ${one}`));
  if (found.length) { failed += 1; } else { passed += 1; }
}
if (failed === 0) {
  for (const [name, plant] of Object.entries(faults)) {
    const board = JSON.parse(readFileSync(files[0], 'utf8'));
    plant(board);
    if (complaints('planted', board).length) { passed += 1; } else { failed += 1; console.error(`not found: ${name}`); }
  }
}
console.log(`${passed} passed, ${failed} failed, 0 skipped`);
process.exit(failed ? 1 : 0);
