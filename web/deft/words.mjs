// What the pack says in the page, in the page's language: Chinese or, for all others, English.

import { app } from '../../../scripts/app.js'

const ENGLISH = {
  title: 'Training', tooltip: 'Trainings of DEFT Nodes: curves, previews, checkpoints',
  refresh: 'Refresh', none: 'No training has run yet.', unreachable: 'The server does not answer.',
  compare: 'Draw its curve with the selected one', running: 'running', stopped: 'stopped', failed: 'failed',
  finished: 'finished', 'broken off': 'interrupted', unknown: '', step: 'step', loss: 'loss', stop: 'Stop',
  stopping: 'Stopping after this step ...', previews: 'Previews', checkpoints: 'Checkpoints', use: 'Use',
  useTip: 'Put a Load Adapter node with this file into the graph', settings: 'Settings', scores: 'Scores',
  noCheckpoints: 'There is none. Save Adapter keeps the finished adapter.', secondsAStep: 's a step', left: 'left',
  used: 'Load Adapter is in the graph; connect its model.', gone: 'This file is no longer there.', seconds: 's',
  minutes: 'min', hours: 'h', mean: 'mean', ready: 'ready',
  plan: 'Make a plan for batch runs', planTitle: 'A plan for batch runs of this workflow',
  planAbout: 'Choose what to vary. This saves two files: the workflow, and a plan for you to write the other values into.',
  planFilter: 'Find a node or a setting', planSave: 'Save the two files', planCancel: 'Cancel',
  planEmpty: 'The workflow has no node that runs.', planFailed: 'The page cannot convert this workflow.',
  planNext: "Put both into one folder, write the values into the plan, and run in the pack's folder:"
}
const CHINESE = {
  title: '训练', tooltip: 'DEFT Nodes 的训练：曲线、预览图、检查点',
  refresh: '刷新', none: '还没有运行过训练。', unreachable: '服务器没有响应。',
  compare: '与所选训练的曲线画在一起', running: '进行中', stopped: '已停止', failed: '失败',
  finished: '已完成', 'broken off': '已中断', unknown: '', step: '步', loss: '损失', stop: '停止',
  stopping: '这一步结束后停止……', previews: '预览图', checkpoints: '检查点', use: '使用',
  useTip: '在图中放入加载此文件的“加载适配器”节点', settings: '设置', scores: '评分',
  noCheckpoints: '没有检查点。用“保存适配器”保存训练好的适配器。', secondsAStep: '秒/步', left: '剩余',
  used: '“加载适配器”已放入图中，请连接它的模型。', gone: '此文件已不存在。', seconds: '秒',
  minutes: '分钟', hours: '小时', mean: '平均', ready: '可用',
  plan: '生成批量运行计划', planTitle: '此工作流的批量运行计划',
  planAbout: '选择要变化的设置。将保存两个文件：工作流，以及供您填写其他值的计划。',
  planFilter: '查找节点或设置', planSave: '保存两个文件', planCancel: '取消',
  planEmpty: '工作流中没有可运行的节点。', planFailed: '页面无法转换此工作流。',
  planNext: '将两个文件放在同一文件夹，在计划中填写各个值，然后在本包的文件夹中执行：'
}

export const language = () => app.extensionManager?.setting.get('Comfy.Locale') ?? 'en'
export const textOf = (word) => (language().startsWith('zh') ? CHINESE : ENGLISH)[word] ?? word

export function duration(seconds) {
  if (seconds < 59.5) return `${Math.round(seconds)} ${textOf('seconds')}`
  const minutes = Math.round(seconds / 60)
  if (minutes < 60) return `${minutes} ${textOf('minutes')}`
  return `${Math.floor(minutes / 60)} ${textOf('hours')} ${minutes % 60} ${textOf('minutes')}`
}
